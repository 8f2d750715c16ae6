//! What a container init tells the launcher: fixed-size records through one shared pipe.
//!
//! Records are shorter than `PIPE_BUF`, so the kernel never mixes those of two inits.

use std::time::Duration;

use super::sys::Usage;

/// The length of every record in bytes.
pub(super) const LEN: usize = 48;

/// One thing that happened inside a container.
#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    /// The program of the task runs.
    Started,
    /// It could not be started: at which [`super::sys::Stage`] and why.
    Failed { stage: i32, errno: i32 },
    /// The main process ended with this wait status and every other process is gone.
    Ended { status: i32, usage: Usage },
}

impl Report {
    /// The record of this report about the container `id`.
    pub(super) fn encode(&self, id: u64) -> [u8; LEN] {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let (kind, a, b, usage): (u32, i32, i32, Usage) = match *self {
            Self::Started => (1, 0, 0, Usage::default()),
            Self::Failed { stage, errno } => (2, stage, errno, Usage::default()),
            Self::Ended { status, usage } => (3, status, 0, usage),
        };
        let mut record = [0; LEN];
        let parts = [
            &id.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &a.to_ne_bytes(),
            &b.to_ne_bytes(),
            &[0; 4],
            &nanos(usage.user).to_ne_bytes(),
            &nanos(usage.system).to_ne_bytes(),
            &usage.max_rss_bytes.to_ne_bytes(),
        ];
        let bytes = parts.into_iter().flatten();
        for (place, byte) in record.iter_mut().zip(bytes) {
            *place = *byte;
        }
        record
    }

    /// Reads a record; `None` when it is none.
    pub(super) fn decode(record: &[u8; LEN]) -> Option<(u64, Self)> {
        let word = |at: usize| -> Option<u64> {
            Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?))
        };
        let half = |at: usize| -> Option<i32> {
            Some(i32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?))
        };
        let report = match half(8)? {
            1 => Self::Started,
            2 => Self::Failed {
                stage: half(12)?,
                errno: half(16)?,
            },
            3 => Self::Ended {
                status: half(12)?,
                usage: Usage {
                    user: Duration::from_nanos(word(24)?),
                    system: Duration::from_nanos(word(32)?),
                    max_rss_bytes: word(40)?,
                },
            },
            _ => return None,
        };
        Some((word(0)?, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let usage = Usage {
            user: Duration::from_micros(12_345),
            system: Duration::from_secs(7),
            max_rss_bytes: 1 << 40,
        };
        let reports = [
            Report::Started,
            Report::Failed { stage: 7, errno: 2 },
            Report::Ended {
                status: 0x0300,
                usage,
            },
        ];
        for report in reports {
            let (id, read) = Report::decode(&report.encode(u64::MAX - 1)).unwrap();
            assert_eq!(id, u64::MAX - 1);
            assert_eq!(format!("{read:?}"), format!("{report:?}"));
        }
        assert!(Report::decode(&[0; LEN]).is_none());
    }
}
