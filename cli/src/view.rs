//! How the operator's views are shortened for people, and how a thing is found by what was typed.

use allotment_proto::allot::{ResourcesView, ScalarView};

use crate::exit::Failure;
use crate::output::{self, Cell, Tone};

/// The amount of `name`, reserved or not; zero when absent.
pub(crate) fn scalar(view: &ResourcesView, name: &str) -> f64 {
    let named = view.scalars.iter().filter(|scalar| scalar.name == name);
    // Not `sum`, which makes -0 of nothing.
    named.fold(0.0, |all, scalar| all + scalar.value)
}

/// `1.5/4`: used and total cores.
pub(crate) fn cpus_of(used: &ResourcesView, total: &ResourcesView) -> String {
    let (used, total) = (scalar(used, "cpus"), scalar(total, "cpus"));
    format!("{}/{}", output::short(used), output::short(total))
}

/// `64 MiB/2 GiB`: used and total memory.
pub(crate) fn mem_of(used: &ResourcesView, total: &ResourcesView) -> String {
    let (used, total) = (scalar(used, "mem"), scalar(total, "mem"));
    format!("{}/{}", output::mib(used), output::mib(total))
}

/// Everything in one line: `cpus 4, mem 2 GiB, ports 31000-31999`.
pub(crate) fn resources(view: &ResourcesView) -> String {
    let scalars = view.scalars.iter().map(scalar_text);
    let ranges = view.ranges.iter().map(|range| {
        let value = range.value.trim_start_matches('[').trim_end_matches(']');
        let lot = range.lot.as_deref().unwrap_or_default();
        format!("{}{lot} {value}", range.name)
    });
    let parts: Vec<_> = scalars.chain(ranges).collect();
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join(", ")
    }
}

fn scalar_text(scalar: &ScalarView) -> String {
    let amount = match scalar.name.as_str() {
        "mem" | "disk" => output::mib(scalar.value),
        _ => output::short(scalar.value),
    };
    let lot = scalar.lot.as_deref().unwrap_or_default();
    format!("{}{lot} {amount}", scalar.name)
}

/// Amounts in one line: `cpus 4, mem 2 GiB`.
pub(crate) fn scalars(amounts: &[ScalarView]) -> String {
    if amounts.is_empty() {
        return "-".to_owned();
    }
    let parts: Vec<_> = amounts.iter().map(scalar_text).collect();
    parts.join(", ")
}

/// A share of the cluster, `12.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", output::short((share * 1000.0).round() / 10.0))
}

/// The state of an agent, framework or task in its colour.
pub(crate) fn state(state: &str) -> Cell {
    let tone = match state {
        "registered" | "connected" | "active" | "TASK_RUNNING" => Tone::Good,
        "TASK_FINISHED" => Tone::Dim,
        "TASK_STAGING" | "TASK_STARTING" | "TASK_KILLING" | "recovering" | "recovered"
        | "draining" | "drained" | "deactivated" => Tone::Busy,
        "TASK_KILLED" => Tone::Plain,
        _ => Tone::Bad,
    };
    Cell::new(state, tone)
}

/// Finds what the user means: a whole id or name, else the unique beginning of an id.
///
/// # Errors
/// [`Failure::NotFound`] for nothing, [`Failure::Usage`] when several fit.
pub(crate) fn pick<'a, T>(
    kind: &str,
    asked: &str,
    things: &'a [T],
    names: impl Fn(&T) -> (&str, &str),
) -> Result<&'a T, Failure> {
    let exact: Vec<&T> = things
        .iter()
        .filter(|thing| {
            let (id, name) = names(thing);
            id == asked || name == asked
        })
        .collect();
    let found = if exact.is_empty() {
        things
            .iter()
            .filter(|thing| names(thing).0.starts_with(asked))
            .collect()
    } else {
        exact
    };
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::NotFound(format!(
            "there is no {kind} {asked:?}; see `allot {kind} list`"
        ))),
        several => {
            let ids: Vec<_> = several.iter().take(5).map(|thing| names(thing).0).collect();
            Err(Failure::Usage(format!(
                "{asked:?} means {} {kind}s ({}{}); give more of the id",
                several.len(),
                ids.join(", "),
                if several.len() > 5 { ", …" } else { "" }
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(asked: &str) -> Result<&'static (&'static str, &'static str), Failure> {
        const THINGS: &[(&str, &str)] = &[("a-1", "web"), ("a-12", "db"), ("b-1", "db")];
        pick("node", asked, THINGS, |thing| *thing)
    }

    #[test]
    fn a_whole_id_wins_over_longer_ones_that_begin_with_it() {
        assert_eq!(find("a-1").unwrap().1, "web");
        assert_eq!(find("b").unwrap().0, "b-1");
    }

    #[test]
    fn an_ambiguous_name_lists_what_it_could_mean() {
        let error = find("db").unwrap_err();
        assert_eq!(error.code(), 2);
        assert_eq!(
            error.to_string(),
            "\"db\" means 2 nodes (a-12, b-1); give more of the id"
        );
        assert_eq!(find("zzz").unwrap_err().code(), 3);
    }
}
