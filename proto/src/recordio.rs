//! RecordIO: a stream of records, each after its length in decimal and a newline.
//!
//! Mesos' event streams are framed so. Some clients need a record's length and bytes in one
//! chunk, hence [`frame`].

/// A length has at most this many digits.
const DIGITS_MAX: usize = 20;

/// One record as it goes out.
pub fn frame(record: &[u8]) -> Vec<u8> {
    let mut framed = format!("{}\n", record.len()).into_bytes();
    framed.extend_from_slice(record);
    framed
}

/// Why bytes are no records; the stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// What stands where a length should is none.
    #[error("a record must begin with its length in decimal digits and a newline")]
    NoLength,
    /// More than the reader takes.
    #[error("a record of {len} bytes came; at most {max} are accepted")]
    TooLong {
        /// The length it announced.
        len: u64,
        /// The most that is taken.
        max: usize,
    },
}

/// Takes bytes in as they come and gives records out.
#[derive(Debug)]
pub struct Reader {
    bytes: Vec<u8>,
    max: usize,
}

impl Reader {
    /// A reader of records of at most `max` bytes.
    pub const fn new(max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max,
        }
    }

    /// Appends what was received.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next complete record, if there is one.
    ///
    /// # Errors
    /// [`RecordError`] when what came is no record; nothing after it can be understood.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, RecordError> {
        let line = self.bytes.iter().take(DIGITS_MAX + 1);
        let Some(end) = line.clone().position(|byte| *byte == b'\n') else {
            let valid = line.clone().all(u8::is_ascii_digit) && self.bytes.len() <= DIGITS_MAX;
            return if valid {
                Ok(None)
            } else {
                Err(RecordError::NoLength)
            };
        };
        let digits = self.bytes.get(..end).unwrap_or_default();
        let len: u64 = std::str::from_utf8(digits)
            .ok()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .ok_or(RecordError::NoLength)?;
        let too_long = RecordError::TooLong { len, max: self.max };
        let size = usize::try_from(len).map_err(|_| too_long.clone())?;
        if size > self.max {
            return Err(too_long);
        }
        let (begin, end) = (end + 1, end + 1 + size);
        let Some(record) = self.bytes.get(begin..end).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.bytes.drain(..end);
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_whole_however_they_were_cut() {
        let mut stream = frame(b"{}");
        stream.extend(frame(b""));
        stream.extend(frame("zwölf".as_bytes()));
        let mut reader = Reader::new(100);
        let mut records = Vec::new();
        for byte in stream {
            reader.extend(&[byte]);
            while let Some(record) = reader.take().unwrap() {
                records.push(String::from_utf8(record).unwrap());
            }
        }
        assert_eq!(records, ["{}", "", "zwölf"]);
    }

    #[test]
    fn garbage_and_absurd_lengths_are_refused() {
        for garbage in [
            "{\"a\":1}\n",
            "-1\nx",
            "+1\nx",
            "99999999999999999999999",
            "\n",
        ] {
            let mut reader = Reader::new(100);
            reader.extend(garbage.as_bytes());
            assert_eq!(reader.take(), Err(RecordError::NoLength), "{garbage}");
        }
        let mut reader = Reader::new(100);
        reader.extend(b"101\n");
        let too_long = RecordError::TooLong { len: 101, max: 100 };
        assert_eq!(reader.take(), Err(too_long));
    }
}
