//! What the benchmarks share: hardware line, percentiles, tables.
