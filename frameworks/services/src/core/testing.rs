//! Small helpers for the unit tests of this module.

use allotment_types::Role;

use super::app::App;

/// A definition that is known to be right.
pub(crate) fn app(json: &str) -> App {
    let value = serde_json::from_str(json).expect("a test's JSON");
    super::parse::app(&value, None, &Role::star()).expect("a valid definition")
}
