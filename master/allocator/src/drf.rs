//! Dominant resource fairness.

/// The default module.
#[derive(Debug, Default)]
pub struct Drf {}
