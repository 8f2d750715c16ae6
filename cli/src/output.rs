//! How anything reaches the user: listings and single things as table, JSON or YAML.
//!
//! Tables are for people: aligned, short, coloured on a terminal only (and never with
//! `NO_COLOR`). JSON and YAML carry everything, under stable names.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use console::{Style, measure_text_width};
use serde::Serialize;

/// How to print an answer: aligned columns for people, JSON and YAML with every field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

/// One row of a listing: serialized whole for programs, as cells for people.
pub(crate) trait Row: Serialize {
    /// The header; a name that begins with `>` stands over right-aligned numbers.
    const COLUMNS: &'static [&'static str];

    /// One cell per column.
    fn cells(&self) -> Vec<Cell>;
}

/// What a cell means, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Busy,
    Bad,
    Dim,
}

/// One cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a meaning.
    pub(crate) fn new(text: impl Into<String>, tone: Tone) -> Self {
        // Control characters of names and messages must not reach the terminal.
        let text = text.into().replace(|c: char| c.is_control(), " ");
        Self { text, tone }
    }

    /// The text in the colour of its meaning.
    pub(crate) fn painted(&self, colours: bool) -> String {
        paint(&self.text, self.tone, colours)
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// `--watch` of listings.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Watch {
    /// Print again every SECONDS until interrupted
    #[arg(
        long,
        short,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        require_equals = true,
        value_parser = clap::value_parser!(u32).range(1..=86_400)
    )]
    watch: Option<u32>,
}

/// Prints a listing, again and again with `--watch`.
pub(crate) async fn listing<R: Row>(
    format: Format,
    watch: Watch,
    mut fetch: impl AsyncFnMut() -> anyhow::Result<Vec<R>>,
) -> anyhow::Result<()> {
    let Some(seconds) = watch.watch else {
        return rows(format, &fetch().await?);
    };
    let clear = std::io::stdout().is_terminal() && format == Format::Table;
    loop {
        let fetched = fetch().await?;
        if clear {
            text("\x1b[H\x1b[2J")?;
        }
        rows(format, &fetched)?;
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    }
}

/// Prints rows once.
pub(crate) fn rows<R: Row>(format: Format, rows: &[R]) -> anyhow::Result<()> {
    match format {
        Format::Table => {
            let cells: Vec<_> = rows.iter().map(Row::cells).collect();
            text(&table(R::COLUMNS, &cells, colours_on_stdout()))
        }
        Format::Json | Format::Yaml => structured(format, &rows),
    }
}

/// Prints one thing: as aligned `name  value` lines for people, whole for programs.
pub(crate) fn one<T: Serialize>(
    format: Format,
    thing: &T,
    fields: &[(&str, Cell)],
) -> anyhow::Result<()> {
    if format != Format::Table {
        return structured(format, thing);
    }
    let colours = colours_on_stdout();
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, cell) in fields {
        out += &paint(&format!("{name:width$}"), Tone::Dim, colours);
        out += "  ";
        out += &paint(&cell.text, cell.tone, colours);
        out += "\n";
    }
    text(&out)
}

fn structured<T: Serialize + ?Sized>(format: Format, thing: &T) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Json => line(&serde_json::to_string_pretty(thing)?),
        Format::Yaml => text(&serde_yaml_ng::to_string(thing)?),
    }
}

/// Prints one line on stdout.
pub(crate) fn line(what: &str) -> anyhow::Result<()> {
    text(&format!("{what}\n"))
}

/// Prints text on stdout, at once.
pub(crate) fn text(what: &str) -> anyhow::Result<()> {
    bytes(what.as_bytes())
}

/// Writes bytes on stdout, at once.
pub(crate) fn bytes(what: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(what)
        .and_then(|()| out.flush())
        .context("cannot write to stdout")
}

/// Writes bytes on stderr; what cannot be written there has nowhere to go.
pub(crate) fn error_bytes(what: &[u8]) {
    let mut out = std::io::stderr().lock();
    let _unwritable = out.write_all(what).and_then(|()| out.flush());
}

/// Prints `note: …` on stderr.
pub(crate) fn note(what: &str) {
    let colours = std::io::stderr().is_terminal() && colours_wanted();
    let mark = paint("note:", Tone::Busy, colours);
    error_bytes(format!("{mark} {what}\n").as_bytes());
}

/// Prints `error: …` on stderr.
pub(crate) fn complain(what: &str) {
    let colours = std::io::stderr().is_terminal() && colours_wanted();
    let mark = paint("error:", Tone::Bad, colours);
    error_bytes(format!("{mark} {what}\n").as_bytes());
}

/// Whether the user has not switched colours off (<https://no-color.org>).
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether stdout shows colours.
pub(crate) fn colours_on_stdout() -> bool {
    std::io::stdout().is_terminal() && colours_wanted()
}

/// `text` in the colour of `tone`.
pub(crate) fn paint(text: &str, tone: Tone, colours: bool) -> String {
    let style = Style::new().force_styling(colours);
    match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => style.green(),
        Tone::Busy => style.yellow(),
        Tone::Bad => style.red().bold(),
        Tone::Dim => style.dim(),
    }
    .apply_to(text)
    .to_string()
}

/// Columns two spaces apart; the last one is neither padded nor cut.
fn table(columns: &[&str], rows: &[Vec<Cell>], colours: bool) -> String {
    let header: Vec<Cell> = columns
        .iter()
        .map(|name| Cell::new(name.trim_start_matches('>'), Tone::Dim))
        .collect();
    let mut widths = vec![0; columns.len()];
    for row in std::iter::once(&header).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(&cell.text));
        }
    }
    let mut out = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (i, ((cell, width), column)) in row.iter().zip(&widths).zip(columns).enumerate() {
            let pad = " ".repeat(width - measure_text_width(&cell.text));
            let text = paint(&cell.text, cell.tone, colours);
            let gap = if i == 0 { "" } else { "  " };
            line += gap;
            if column.starts_with('>') {
                line += &pad;
                line += &text;
            } else {
                line += &text;
                line += &pad;
            }
        }
        out += line.trim_end();
        out += "\n";
    }
    out
}

/// A size for people: `512 MiB`, `1.5 GiB`, from MiB.
pub(crate) fn mib(mib: f64) -> String {
    match mib {
        m if m >= 1024.0 * 1024.0 => format!("{} TiB", short(m / 1024.0 / 1024.0)),
        m if m >= 1024.0 => format!("{} GiB", short(m / 1024.0)),
        m => format!("{} MiB", short(m)),
    }
}

/// A number with at most two decimals and no trailing zeros.
pub(crate) fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    // Of what rounds to nothing no sign is left.
    if text == "-0" { "0" } else { text }.to_owned()
}

/// A duration for people, two units at most: `3s`, `4m 20s`, `2h 5m`, `3d 4h`.
pub(crate) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit} {small}{small_unit}")
        }
    };
    match secs {
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{secs}s"),
        60..3600 => two(secs / 60, "m", secs % 60, "s"),
        3600..86_400 => two(secs / 3600, "h", secs % 3600 / 60, "m"),
        _ => two(secs / 86_400, "d", secs % 86_400 / 3600, "h"),
    }
}

/// How long ago a Unix time in seconds was; `0ms` for times to come.
pub(crate) fn age(unix_seconds: f64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "times of this era in milliseconds fit; others saturate"
    )]
    let then = (unix_seconds * 1000.0) as i64;
    let millis = u64::try_from(now.saturating_sub(then)).unwrap_or(0);
    duration(Duration::from_millis(millis))
}

/// Local date and time of a Unix time in seconds.
pub(crate) fn clock(unix_seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "times of this era in milliseconds fit; others saturate and are refused below"
    )]
    let then = jiff::Timestamp::from_millisecond((unix_seconds * 1000.0) as i64);
    then.map_or_else(
        |_| "-".to_owned(),
        |then| {
            let local = then.to_zoned(jiff::tz::TimeZone::system());
            local.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = [
            vec!["a1".into(), "4".into(), "ready".into()],
            vec![
                "agent-2".into(),
                "128".into(),
                Cell::new("größer", Tone::Good),
            ],
        ];
        assert_eq!(
            table(&["NAME", ">CPUS", "STATE"], &rows, false),
            "NAME     CPUS  STATE\na1          4  ready\nagent-2   128  größer\n"
        );
    }

    #[test]
    fn a_message_cannot_send_escapes_to_the_terminal() {
        assert_eq!(Cell::from("\x1b[2Jgone").text, " [2Jgone");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (millis, expected) in [
            (7, "7ms"),
            (59_900, "59s"),
            (60_000, "1m"),
            (3_723_000, "1h 2m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn sizes_use_the_unit_that_reads_best() {
        assert_eq!(mib(64.0), "64 MiB");
        assert_eq!(mib(1536.0), "1.5 GiB");
        assert_eq!(mib(2.0 * 1024.0 * 1024.0), "2 TiB");
    }
}
