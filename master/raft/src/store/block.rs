//! Blocks with checksums: what one group commit appends.
//!
//! `magic`, `length`, `number`, `checksum`, payload; all numbers little-endian. A block is appended
//! only once the one before it is on the disk, so whatever is wrong before a good block is damage,
//! and what is wrong at the very end may be a write that a crash tore.

use allotment_proto::allot;
use bytes::Bytes;
use prost::Message as _;

const MAGIC: u32 = u32::from_le_bytes(*b"aBlk");
const HEADER_LEN: usize = 20;
/// What a disk writes whole.
const SECTOR_LEN: usize = 512;

/// A block that a crash does not explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) what: String,
}

/// Appends the bytes of block `number` to `out`.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, block: &allot::RaftBlock) {
    let at = out.len();
    let len = block.encoded_len();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.reserve(len);
    // A `Vec` grows as needed: the only error there is cannot happen.
    let _ = block.encode(out);
    let sum = checksum(number, out.get(at + HEADER_LEN..).unwrap_or_default());
    if let Some(place) = out.get_mut(at + 16..at + HEADER_LEN) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

fn checksum(number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

struct Header {
    len: usize,
    number: u64,
    sum: u32,
}

fn header(bytes: &[u8]) -> Option<Header> {
    let field = |from: usize| bytes.get(from..from + 4)?.try_into().ok();
    if u32::from_le_bytes(field(0)?) != MAGIC {
        return None;
    }
    Some(Header {
        len: usize::try_from(u32::from_le_bytes(field(4)?)).ok()?,
        number: u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?),
        sum: u32::from_le_bytes(field(16)?),
    })
}

/// The payload of the block at `offset` when it is whole, and the block's number.
fn whole(bytes: &Bytes, offset: usize) -> Option<(u64, Bytes)> {
    let header = header(bytes.get(offset..)?)?;
    let from = offset + HEADER_LEN;
    let end = from.checked_add(header.len)?;
    let payload = bytes.get(from..end)?;
    (checksum(header.number, payload) == header.sum)
        .then(|| (header.number, bytes.slice(from..end)))
}

/// Reads blocks 0, 1, … and says where they end; what follows was torn by a crash.
pub(super) fn scan(bytes: &Bytes) -> Result<(Vec<allot::RaftBlock>, usize), Damage> {
    let mut blocks = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let number = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
        let Some((found, payload)) = whole(bytes, offset) else {
            return match damage(bytes, offset) {
                Some(what) => Err(Damage { offset, what }),
                None => Ok((blocks, offset)),
            };
        };
        let len = HEADER_LEN + payload.len();
        let wrong = |what| Damage { offset, what };
        if found != number {
            return Err(wrong(format!("block {found} stands where {number} should")));
        }
        let block = allot::RaftBlock::decode(payload)
            .map_err(|e| wrong(format!("block {number} is unreadable: {e}")))?;
        blocks.push(block);
        offset += len;
    }
    Ok((blocks, offset))
}

/// Why what stands at `offset` cannot be a write that a crash tore; `None` when it can.
fn damage(bytes: &Bytes, offset: usize) -> Option<String> {
    let mut later = offset + 1;
    while let Some(place) = find(bytes, later) {
        if whole(bytes, place).is_some() {
            return Some(format!(
                "its checksum is wrong although a good block follows at byte {place}"
            ));
        }
        later = place + 1;
    }
    let rest = bytes.get(offset..).unwrap_or_default();
    if rest.len() < HEADER_LEN {
        return None;
    }
    let end = match header(rest) {
        // Cut short.
        Some(header) if header.len > rest.len() - HEADER_LEN => return None,
        Some(header) => offset + HEADER_LEN + header.len,
        None => bytes.len(),
    };
    // What a crash kept from the disk reads as zeros; a flipped bit leaves no such hole.
    let mut sector = offset;
    while sector < end {
        let next = (sector / SECTOR_LEN + 1) * SECTOR_LEN;
        let part = bytes.get(sector..next.min(end)).unwrap_or_default();
        if part.iter().all(|byte| *byte == 0) {
            return None;
        }
        sector = next;
    }
    Some("its checksum is wrong although all of it was written".to_owned())
}

/// Where the next block may begin.
fn find(bytes: &[u8], from: usize) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    let rest = bytes.get(from..)?;
    let place = rest.windows(magic.len()).position(|w| w == magic)?;
    Some(from + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0..n {
            let entry = allot::RaftEntry {
                index: number + 1,
                data: Some(vec![7; 700].into()),
                ..Default::default()
            };
            let block = allot::RaftBlock {
                entries: vec![entry],
                ..Default::default()
            };
            encode(&mut bytes, number, &block);
        }
        bytes
    }

    fn count(bytes: Vec<u8>) -> Result<usize, Damage> {
        scan(&bytes.into()).map(|(blocks, _)| blocks.len())
    }

    #[test]
    fn a_tail_cut_anywhere_loses_only_the_last_block() {
        let all = blocks(3);
        let two = blocks(2).len();
        assert_eq!(count(all.clone()), Ok(3));
        for len in two..all.len() {
            assert_eq!(count(all[..len].to_vec()), Ok(2), "cut at {len}");
        }
    }

    #[test]
    fn a_sector_that_never_reached_the_disk_is_a_torn_tail() {
        let mut all = blocks(3);
        let two = blocks(2).len();
        let hole = (two / SECTOR_LEN + 1) * SECTOR_LEN;
        all[hole..hole + 200].fill(0);
        let end = all.len().min(hole + SECTOR_LEN);
        all[hole..end].fill(0);
        assert_eq!(count(all), Ok(2));
    }

    #[test]
    fn every_flipped_bit_is_named_or_harmless_and_never_believed() {
        let all = blocks(3);
        let two = blocks(2).len();
        for at in 0..all.len() {
            let mut flipped = all.clone();
            flipped[at] ^= 0x10;
            match count(flipped) {
                Err(_) => {}
                // In the length of the last block, which then looks cut short.
                Ok(n) => assert!(n == 2 && (two + 4..two + 8).contains(&at), "byte {at}"),
            }
        }
    }
}
