//! Why nothing was offered.

use allotment_types::{FrameworkId, Timestamp};

use super::books::Books;
use crate::Unoffered;

impl Books {
    pub(crate) fn explain(&self, _now: Timestamp, _framework: &FrameworkId) -> Vec<Unoffered> {
        Vec::new()
    }
}
