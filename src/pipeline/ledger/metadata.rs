//! The commit metadata: a position in at most 4,096 bytes of text, versioned and checked. Pure.
//!
//! Format 1: `arauto1:` and unpadded base64url of
//! `checksum(4) | horizon − base | hashes: n, n × u32 | sets: n, each k and k indices (k = 0: all) | runs`, where a
//! run is `gap to the previous run | length − 1 | set`, and all numbers are LEB128. The checksum covers the committed
//! offset too: metadata that was truncated, belongs to another offset or to another program reads as empty, which
//! repeats deliveries but never loses one.

use std::collections::HashMap;

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

/// The brokers' default limit, `offset.metadata.max.bytes`.
pub const MAX_LEN: usize = 4096;

const PREFIX: &str = "arauto1:";

/// Where a partition stands: all below `base` is settled, and so is what lies below `horizon` and is not owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The committed offset.
    pub base: i64,
    /// One more than the highest offset read; not below `base`.
    pub horizon: i64,
    /// What is still owed, ascending, without overlaps.
    pub owed: Vec<Run>,
}

/// A run of offsets owed to the same endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// First offset.
    pub first: i64,
    /// Last offset, inclusive.
    pub last: i64,
    /// To whom.
    pub owed: Owed,
}

/// To whom an event is owed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owed {
    /// Everybody who wants it.
    All,
    /// These endpoints, by ascending hash; never empty.
    To(Vec<u32>),
}

impl Position {
    /// A position about which nothing is known but its offset.
    pub fn at(base: i64) -> Self {
        Self { base, horizon: base, owed: Vec::new() }
    }
}

/// Writes a position, and tells how long it would have liked to be.
///
/// When it is too long, endpoints are dropped first (the events are owed to all); when that is too long as well, the
/// horizon is lowered: what lies above counts as not read. Both may repeat deliveries; neither loses one.
pub fn encode(position: &Position) -> (String, usize) {
    if position.horizon <= position.base {
        return (String::new(), 0);
    }
    let exact = encode_exact(position);
    if exact.len() <= MAX_LEN {
        let len = exact.len();
        // Only what no longer fits without endpoints has to stop the intake.
        let pressing = if len > MAX_LEN / 2 { encode_exact(&owed_to_all(position)).len() } else { len };
        return (exact, pressing);
    }
    let mut coarse = owed_to_all(position);
    let text = encode_exact(&coarse);
    let wanted = text.len();
    if wanted <= MAX_LEN {
        return (text, wanted);
    }
    let mut keep = coarse.owed.len();
    loop {
        // Runs are of similar length, so the second or third cut fits.
        keep = keep * MAX_LEN / (MAX_LEN + MAX_LEN / 8);
        coarse.horizon = coarse.owed.get(keep).map_or(coarse.horizon, |run| run.first);
        coarse.owed.truncate(keep);
        let text = encode_exact(&coarse);
        if text.len() <= MAX_LEN {
            return (text, wanted);
        }
    }
}

/// Reads a position back; anything but our own intact words for this very offset is `None`.
pub fn decode(base: i64, metadata: &str) -> Option<Position> {
    let bytes = BASE64URL_NOPAD.decode(metadata.strip_prefix(PREFIX)?.as_bytes()).ok()?;
    let (checksum, body) = bytes.split_at_checked(4)?;
    if checksum != self::checksum(base, body) {
        return None;
    }
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
    (end <= horizon).then_some(Position { base, horizon, owed })
}

fn owed_to_all(position: &Position) -> Position {
    let mut owed: Vec<Run> = Vec::with_capacity(position.owed.len());
    for run in &position.owed {
        match owed.last_mut() {
            Some(last) if last.last + 1 == run.first => last.last = run.last,
            _ => owed.push(Run { first: run.first, last: run.last, owed: Owed::All }),
        }
    }
    Position { base: position.base, horizon: position.horizon, owed }
}

fn encode_exact(position: &Position) -> String {
    let mut hashes: Vec<u32> = Vec::new();
    let mut hash_index: HashMap<u32, usize> = HashMap::new();
    let mut sets: Vec<u8> = Vec::new();
    let mut set_index: HashMap<&Owed, usize> = HashMap::new();
    let mut runs: Vec<u8> = Vec::new();
    let mut end = position.base;
    for run in &position.owed {
        let fresh = set_index.len();
        let set = *set_index.entry(&run.owed).or_insert(fresh);
        if set == fresh {
            write_set(&run.owed, &mut sets, &mut hashes, &mut hash_index);
        }
        write_number(&mut runs, run.first.abs_diff(end));
        write_number(&mut runs, run.last.abs_diff(run.first));
        write_number(&mut runs, set as u64);
        end = run.last + 1;
    }
    let mut body = Vec::with_capacity(16 + hashes.len() * 4 + sets.len() + runs.len());
    write_number(&mut body, position.horizon.abs_diff(position.base));
    write_number(&mut body, hashes.len() as u64);
    for hash in hashes {
        body.extend_from_slice(&hash.to_be_bytes());
    }
    write_number(&mut body, set_index.len() as u64);
    body.extend_from_slice(&sets);
    body.extend_from_slice(&runs);
    let mut bytes = checksum(position.base, &body).to_vec();
    bytes.extend_from_slice(&body);
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
}

fn write_set(owed: &Owed, sets: &mut Vec<u8>, hashes: &mut Vec<u32>, index: &mut HashMap<u32, usize>) {
    let Owed::To(endpoints) = owed else {
        return write_number(sets, 0);
    };
    write_number(sets, endpoints.len() as u64);
    for hash in endpoints {
        let fresh = hashes.len();
        let at = *index.entry(*hash).or_insert(fresh);
        if at == fresh {
            hashes.push(*hash);
        }
        write_number(sets, at as u64);
    }
}

fn checksum(base: i64, body: &[u8]) -> [u8; 4] {
    let digest = Sha256::new().chain_update(base.to_be_bytes()).chain_update(body).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// Unsigned LEB128, as in DWARF and WebAssembly.
fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
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
