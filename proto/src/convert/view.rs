//! Resources for people and scripts.

use allotment_types::{Fixed, Name, Resources, Value};

use crate::allot;

/// Writes resources for people: scalars and ranges under plain names with what is special of
/// their lot, sets as ranges of text.
pub fn resources_view(resources: &Resources) -> allot::ResourcesView {
    let mut view = allot::ResourcesView::default();
    for (name, lot, value) in resources.iter() {
        let name = name.as_str().to_owned();
        let lot = (!lot.is_plain()).then(|| lot.to_string());
        match value {
            Value::Scalar(amount) => {
                view.scalars.push(allot::ScalarView {
                    name,
                    value: amount.as_f64(),
                    lot,
                });
            }
            Value::Ranges(_) | Value::Set(_) => {
                view.ranges.push(allot::RangesView {
                    name,
                    value: value.to_string(),
                    lot,
                });
            }
        }
    }
    view
}

/// Writes amounts for people.
pub fn amounts_view<'a>(
    amounts: impl IntoIterator<Item = (&'a Name, &'a Fixed)>,
) -> Vec<allot::ScalarView> {
    let view = |(name, amount): (&Name, &Fixed)| allot::ScalarView {
        name: name.as_str().to_owned(),
        value: amount.as_f64(),
        lot: None,
    };
    amounts.into_iter().map(view).collect()
}
