//! The suite itself: the shipped modules and the reference pass it, and each law can be broken.

mod support;

use allotment_allocator::{Settings, conformance};
use support::reference::Reference;

#[test]
fn the_reference_passes() {
    conformance::check(|| Box::new(Reference::new(Settings::default())));
}
