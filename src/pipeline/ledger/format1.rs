//! Format 1 of the metadata, which releases before format 2 wrote; it is read only. Pure.
//!
//! `horizon − base | hashes: n, n × u32 | sets: n, each k and k indices (k = 0: all) | runs`, where a run is
//! `gap to the previous run | length − 1 | set`, and all numbers are LEB128.

use super::metadata::{Owed, Position, Run};

pub(super) const PREFIX: &str = "arauto1:";

pub(super) fn unpack(base: i64, body: &[u8]) -> Option<Position> {
    let mut reader = Reader(body);
    let horizon = base.checked_add(reader.number()?)?;
    let hashes = (0..reader.count()?).map(|_| reader.hash()).collect::<Option<Vec<u32>>>()?;
    let sets = (0..reader.count()?).map(|_| reader.set(&hashes)).collect::<Option<Vec<Owed>>>()?;
    let mut owed = Vec::new();
    let mut end = base;
    while !reader.0.is_empty() {
        let first = end.checked_add(reader.number()?)?;
        let last = first.checked_add(reader.number()?)?;
        let set = sets.get(usize::try_from(reader.number()?).ok()?)?;
        end = last.checked_add(1)?;
        owed.push(Run { first, last, owed: set.clone() });
    }
    Some(Position { base, horizon, owed })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<i64> {
        let mut number = 0_i64;
        for shift in (0..63).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= i64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of things of at least one byte each, so never more than there are bytes.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn hash(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*bytes))
    }

    fn set(&mut self, hashes: &[u32]) -> Option<Owed> {
        let count = self.count()?;
        if count == 0 {
            return Some(Owed::All);
        }
        (0..count)
            .map(|_| hashes.get(usize::try_from(self.number()?).ok()?).copied())
            .collect::<Option<Vec<u32>>>()
            .map(Owed::To)
    }
}
