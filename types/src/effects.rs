//! The contract between a pure core and the edge that drives it.

/// What one step asks: `persist` first, then `then`, in order.
///
/// The edge makes every record of `persist` durable before it performs the
/// first effect of `then`, and never performs effects of a later step before
/// those of an earlier one, except those that a core names as independent of
/// the disk. It may merge the records of many steps into one write (group
/// commit). After raft-rs' `Ready`.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "effects that are dropped never happen"]
pub struct Effects<W, E> {
    /// Records to make durable before anybody hears of this step.
    pub persist: Vec<W>,
    /// What to do once they are.
    pub then: Vec<E>,
}

impl<W, E> Effects<W, E> {
    /// A step that changed nothing outside.
    pub const fn none() -> Self {
        Self {
            persist: Vec::new(),
            then: Vec::new(),
        }
    }

    /// Nothing to write and nothing to do.
    pub fn is_empty(&self) -> bool {
        self.persist.is_empty() && self.then.is_empty()
    }

    /// Appends the effects of a later step.
    pub fn append(&mut self, mut later: Self) {
        self.persist.append(&mut later.persist);
        self.then.append(&mut later.then);
    }
}

impl<W, E> Default for Effects<W, E> {
    fn default() -> Self {
        Self::none()
    }
}
