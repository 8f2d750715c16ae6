//! What a container init tells: fixed-size records, through a pipe to the launcher that forked
//! it, and into the journal for whoever comes after.
//!
//! Records are shorter than `PIPE_BUF`, so the kernel never mixes those of two inits in the pipe,
//! and each is one append to the journal. Their layout is what an agent has in common with the
//! inits that an earlier version of it left behind: it may grow into the spare bytes, and what a
//! version wrote every later one reads.

use std::time::Duration;

use super::sys::Usage;

/// The length of every record in bytes.
pub(super) const LEN: usize = 64;
const VERSION: u8 = 1;

/// One thing that happened inside a container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// A first process is there.
    Born(Born),
    /// The program of the task runs.
    Started,
    /// It could not be started: at which [`super::sys::Stage`] and why.
    Failed { stage: i32, errno: i32 },
    /// The main process ended with this wait status and every other process is gone.
    Ended { status: i32, usage: Usage },
}

/// Which process is the first one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Born {
    /// As the host numbers it.
    pub(super) pid: i32,
    /// By the clock that counts since boot. A process of the same number that began later is
    /// another one.
    pub(super) since_boot: Duration,
    /// It is the first of its own pid namespace.
    pub(super) pid_namespace: bool,
}

impl Report {
    /// The record of this report about the container of this uuid.
    pub(super) fn encode(&self, container: u128) -> [u8; LEN] {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let none = Usage::default();
        let (kind, flags, a, b, usage): (u8, u16, i32, i32, Usage) = match *self {
            Self::Born(born) => {
                let since = Usage {
                    user: born.since_boot,
                    ..none
                };
                (4, born.pid_namespace.into(), born.pid, 0, since)
            }
            Self::Started => (1, 0, 0, 0, none),
            Self::Failed { stage, errno } => (2, 0, stage, errno, none),
            Self::Ended { status, usage } => (3, 0, status, 0, usage),
        };
        let mut record = [0; LEN];
        let parts = [
            &[0; 4][..],
            &[VERSION, kind],
            &flags.to_le_bytes(),
            &container.to_le_bytes(),
            &a.to_le_bytes(),
            &b.to_le_bytes(),
            &nanos(usage.user).to_le_bytes(),
            &nanos(usage.system).to_le_bytes(),
            &usage.max_rss_bytes.to_le_bytes(),
        ];
        let bytes = parts.into_iter().flatten();
        for (place, byte) in record.iter_mut().zip(bytes) {
            *place = *byte;
        }
        seal(&mut record);
        record
    }

    /// Reads a record; `None` when it is none.
    pub(super) fn decode(record: &[u8; LEN]) -> Option<(u128, Self)> {
        if !is_sealed(record) || record.get(4) != Some(&VERSION) {
            return None;
        }
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?))
        };
        let half = |at: usize| -> Option<i32> {
            Some(i32::from_le_bytes(record.get(at..at + 4)?.try_into().ok()?))
        };
        let report = match record.get(5)? {
            1 => Self::Started,
            2 => Self::Failed {
                stage: half(24)?,
                errno: half(28)?,
            },
            3 => Self::Ended {
                status: half(24)?,
                usage: Usage {
                    user: Duration::from_nanos(word(32)?),
                    system: Duration::from_nanos(word(40)?),
                    max_rss_bytes: word(48)?,
                },
            },
            4 => Self::Born(Born {
                pid: half(24)?,
                since_boot: Duration::from_nanos(word(32)?),
                pid_namespace: record.get(6)? & 1 == 1,
            }),
            _ => return None,
        };
        let container = u128::from_le_bytes(record.get(8..24)?.try_into().ok()?);
        Some((container, report))
    }
}

/// Puts the checksum of the rest into the first four bytes.
pub(super) fn seal(record: &mut [u8; LEN]) {
    if let Some((sum, rest)) = record.split_first_chunk_mut::<4>() {
        *sum = crc32fast::hash(rest).to_le_bytes();
    }
}

/// Whether the first four bytes are the checksum of the rest.
pub(super) fn is_sealed(record: &[u8; LEN]) -> bool {
    record
        .split_first_chunk::<4>()
        .is_some_and(|(sum, rest)| crc32fast::hash(rest) == u32::from_le_bytes(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> [Report; 4] {
        let usage = Usage {
            user: Duration::from_micros(12_345),
            system: Duration::from_secs(7),
            max_rss_bytes: 1 << 40,
        };
        [
            Report::Born(Born {
                pid: 4_000_000,
                since_boot: Duration::from_millis(1_234_567),
                pid_namespace: true,
            }),
            Report::Started,
            Report::Failed { stage: 7, errno: 2 },
            Report::Ended {
                status: 0x0300,
                usage,
            },
        ]
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        for report in reports() {
            let (container, read) = Report::decode(&report.encode(u128::MAX - 1)).unwrap();
            assert_eq!(container, u128::MAX - 1);
            assert_eq!(format!("{read:?}"), format!("{report:?}"));
        }
        assert!(Report::decode(&[0; LEN]).is_none());
    }

    #[test]
    fn a_record_with_any_bit_turned_is_none() {
        let record = reports()[3].encode(7);
        for bit in 0..LEN * 8 {
            let mut damaged = record;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Report::decode(&damaged).is_none(), "bit {bit}");
        }
    }

    /// What version 1 wrote, in hexadecimal. It stays as it is for as long as an agent may be
    /// upgraded over tasks that version 1 started.
    #[test]
    fn the_first_version_is_read_for_ever() {
        let golden = [
            "ce575755010401000700000000000000000000000000000000093d0000000000\
             c06fed711f010000000000000000000000000000000000000000000000000000",
            "368706c501030000070000000000000000000000000000000003000000000000\
             a85ebc000000000000863ba10100000000000000000100000000000000000000",
        ];
        let read = golden.map(|text| {
            let mut record = [0; LEN];
            for (place, pair) in record.iter_mut().zip(text.as_bytes().chunks(2)) {
                let pair = std::str::from_utf8(pair).unwrap();
                *place = u8::from_str_radix(pair, 16).unwrap();
            }
            Report::decode(&record).unwrap()
        });
        assert_eq!(
            format!("{read:?}"),
            format!("{:?}", [(7, reports()[0]), (7, reports()[3])])
        );
    }
}
