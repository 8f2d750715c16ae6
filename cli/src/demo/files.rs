//! The examples that the demo submits, shipped inside the binary, and the answer they must give.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// How often each word occurs.
pub(super) type Counts = BTreeMap<String, u64>;

macro_rules! example {
    ($name:expr) => {
        (
            $name,
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/", $name)),
        )
    };
}

macro_rules! parts {
    ($($number:literal)*) => {
        &[$(example!(concat!("text/part-", $number, ".txt"))),*]
    };
}

/// What is submitted, by name below `examples/`.
const SUBMITTED: &[(&str, &str)] = &[
    example!("web.json"),
    example!("wordcount.sub"),
    example!("wordcount.sh"),
    example!("wordcount-merge.sub"),
    example!("wordcount-merge.sh"),
];

/// The text, one part for each job.
const TEXT: &[(&str, &str)] = parts![
    "00" "01" "02" "03" "04" "05" "06" "07" "08" "09" "10" "11" "12" "13" "14" "15" "16" "17"
    "18" "19" "20" "21" "22" "23" "24" "25" "26" "27" "28" "29" "30" "31" "32" "33" "34" "35"
    "36" "37" "38" "39" "40" "41" "42" "43" "44" "45" "46" "47" "48" "49" "50" "51" "52" "53"
];

/// Where `wordcount-merge.sub` leaves its answer.
const MERGED: &str = "text/wordcount.txt";

/// Writes every example below `folder`.
pub(super) fn write(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder.join("text"))
        .and_then(|()| {
            SUBMITTED
                .iter()
                .chain(TEXT)
                .try_for_each(|(name, content)| write_one(&folder.join(name), content))
        })
        .with_context(|| format!("cannot write the examples into {}", folder.display()))
}

fn write_one(path: &Path, content: &str) -> std::io::Result<()> {
    fs::write(path, content)?;
    if content.starts_with("#!") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The answer of the merging job: lines "COUNT WORD".
pub(super) fn merged_count(folder: &Path) -> anyhow::Result<Counts> {
    let path = folder.join(MERGED);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("the merging job left no {}", path.display()))?;
    text.lines()
        .map(|line| {
            let (count, word) = line.split_once(' ')?;
            Some((word.to_owned(), count.parse().ok()?))
        })
        .collect::<Option<Counts>>()
        .with_context(|| format!("{} has a line that is no count and word", path.display()))
}

/// The same counted directly: a word is a run of the letters a to z, upper case counting as lower.
pub(super) fn direct_count() -> Counts {
    let words = TEXT
        .iter()
        .flat_map(|(_, text)| text.split(|c: char| !c.is_ascii_alphabetic()))
        .filter(|word| !word.is_empty());
    words.fold(Counts::new(), |mut counts, word| {
        *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
        counts
    })
}

/// The `n` most frequent words with their counts, for people.
pub(super) fn most_frequent(counts: &Counts, n: usize) -> String {
    let mut words: Vec<_> = counts.iter().collect();
    words.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), *word));
    let top = words.iter().take(n);
    let top = top.map(|(word, count)| format!("{word} ({count})"));
    top.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_examples_are_the_ones_in_the_repository() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let parts = fs::read_dir(examples.join("text")).unwrap();
        let parts = parts.filter(|entry| {
            let path = entry.as_ref().unwrap().path();
            path.extension().is_some_and(|e| e == "txt") && !path.ends_with("wordcount.txt")
        });
        assert_eq!(parts.count(), TEXT.len());
    }

    #[test]
    fn a_merged_answer_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        assert!(merged_count(folder.path()).is_err());
        fs::write(folder.path().join(MERGED), "12 the\n3 a\n").unwrap();
        let counts = merged_count(folder.path()).unwrap();
        assert_eq!(counts.get("the"), Some(&12));
        assert_eq!(most_frequent(&counts, 1), "the (12)");
    }
}
