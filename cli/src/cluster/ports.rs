//! Finding host ports that nobody uses.

use std::net::{Ipv4Addr, TcpListener};

/// Below Linux' ephemeral range (32768), where outgoing connections take ports at any time.
const RANGE: std::ops::Range<u16> = 20_000..31_000;

/// `n` ranges (both ends included) of `size` ports that are free now, none used twice.
///
/// Another process may take one later; a task then fails to listen and is started again. The
/// search begins at a place of this process' own, so that two clusters rarely meet.
pub(crate) fn free(n: usize, size: u16) -> anyhow::Result<Vec<(u16, u16)>> {
    let n_blocks = (RANGE.end - RANGE.start) / size;
    let first = u16::try_from(std::process::id() % u32::from(n_blocks)).unwrap_or(0);
    let blocks = (0..n_blocks)
        .map(|i| RANGE.start + (first + i) % n_blocks * size)
        .map(|begin| (begin, begin + size - 1))
        .filter(|(begin, end)| (*begin..=*end).all(is_free));
    let found: Vec<_> = blocks.take(n).collect();
    anyhow::ensure!(
        found.len() == n,
        "there are no {n} times {size} free ports in a row between {} and {}; close some servers",
        RANGE.start,
        RANGE.end
    );
    Ok(found)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_handed_out() {
        let (begin, end) = free(1, 5).unwrap()[0];
        let _taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, begin + 2)).unwrap();
        for (other_begin, other_end) in free(3, 5).unwrap() {
            assert!(other_end < begin || other_begin > end);
        }
    }
}
