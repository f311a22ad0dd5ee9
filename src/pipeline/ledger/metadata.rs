//! The commit metadata: a position in at most 4,096 bytes of text, versioned and checked. Pure.
//!
//! Format 2: `arauto2:` and unpadded base64url of `checksum(4) | form(1 bit) | horizon − base | dictionary of endpoint
//! hashes | what is owed`, where the form is whichever of two is shorter: by rows (`rows.rs`) or by columns
//! (`columns.rs`). A bitmap needs no form of its own: a list of runs in Rice codes becomes one where that is shortest
//! (`bits.rs`). The checksum covers the committed offset too: metadata that was truncated, belongs to another offset or
//! to another program reads as empty, which repeats deliveries but never loses one.
//!
//! How many owed deliveries a partition can carry, each to the endpoint it is owed to, before endpoints are dropped; a
//! test holds these figures. Intake stops at three quarters of what can be carried with all endpoints dropped.
//!
//! | owed | in format 1 | in format 2 |
//! |---|---|---|
//! | everything from some offset on, whoever wants it | no bound | no bound |
//! | the same, to each of 150 endpoints from an offset of its own | 79,000 | no bound |
//! | every second event, to one endpoint | 1,000 | no bound |
//! | half of the events, at random, to one endpoint, or to whoever wants them | 1,900 | 12,000 |
//! | one event in ten, at random, to one endpoint | 1,100 | 4,500 |
//! | one event in a thousand, at random, to one endpoint | 780 | 1,900 |
//! | half of the events, at random, to each of ten endpoints | 1,700 | 11,500 |
//! | every event, to one of 50 endpoints at random | 930 | 3,200 |
//! | every event, to an endpoint that no other one is for | 300 | 600 |
//!
//! Format 1 (`format1.rs`) is still read. What knows only format 1 takes format 2 for foreign: after a roll-back to it, or
//! beside it during a rolling restart, what was settled above a committed offset is delivered once more, and nothing is
//! lost. A format 3 has to be read by one release before the next one writes it.
//!
//! Brokers measure the text in UTF-16 units, so characters of 15 bits would carry twice as much; others that speak the
//! protocol measure bytes, some look at it as text, and denser ASCII gains a fifteenth. Hence base64url.

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::{
    bits::{Reader, Writer},
    columns, format1, rows,
    table::{self, Table},
};

/// The brokers' default limit, `offset.metadata.max.bytes`.
pub const MAX_LEN: usize = 4096;

const PREFIX: &str = "arauto2:";
/// Bytes of the checksum.
const CHECKSUM: usize = 4;
/// Tries to keep the endpoints of a part of the events, before all are dropped.
const PARTLY_TRIES: usize = 3;

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
/// When it is too long, endpoints are dropped first (the events are owed to all), of the newest events, to whose
/// endpoints the least is settled; when that is too long as well, the horizon is lowered: what lies above counts as not
/// read. Both may repeat deliveries; neither loses one.
pub fn encode(position: &Position) -> (String, usize) {
    if position.horizon <= position.base {
        return (String::new(), 0);
    }
    let exact = pack(position);
    if text_len(&exact) <= MAX_LEN / 2 {
        return (text(position, &exact), text_len(&exact));
    }
    // Only what does not fit without endpoints has to stop the intake.
    let mut coarse = owed_to_all(position, 0);
    let all = pack(&coarse);
    let wanted = text_len(&all);
    if text_len(&exact) <= MAX_LEN {
        return (text(position, &exact), wanted);
    }
    if wanted <= MAX_LEN {
        return (partly(position, text_len(&exact)).unwrap_or_else(|| text(&coarse, &all)), wanted);
    }
    let mut keep = coarse.owed.len();
    loop {
        // Runs are of similar length, so the second or third cut fits.
        keep = keep * MAX_LEN / (MAX_LEN + MAX_LEN / 8);
        coarse.horizon = coarse.owed.get(keep).map_or(coarse.horizon, |run| run.first);
        coarse.owed.truncate(keep);
        let packed = pack(&coarse);
        if text_len(&packed) <= MAX_LEN {
            return (text(&coarse, &packed), wanted);
        }
    }
}

/// Endpoints kept below an offset only; `None` when not even that of few events fits.
fn partly(position: &Position, mut len: usize) -> Option<String> {
    let mut keep = position.owed.len();
    for _ in 0..PARTLY_TRIES {
        // A little less than what fits if every run costs the same.
        keep = keep * MAX_LEN / (len + len / 16);
        let partly = owed_to_all(position, keep);
        let packed = pack(&partly);
        len = text_len(&packed);
        if len <= MAX_LEN {
            return Some(text(&partly, &packed));
        }
    }
    None
}

/// Reads a position back; anything but our own intact words for this very offset is `None`.
pub fn decode(base: i64, metadata: &str) -> Option<Position> {
    let (in_format_1, armoured) = match metadata.strip_prefix(PREFIX) {
        Some(armoured) => (false, armoured),
        None => (true, metadata.strip_prefix(format1::PREFIX)?),
    };
    let bytes = BASE64URL_NOPAD.decode(armoured.as_bytes()).ok()?;
    let (checksum, body) = bytes.split_at_checked(4)?;
    if checksum != self::checksum(base, body) {
        return None;
    }
    let position = if in_format_1 { format1::unpack(base, body)? } else { unpack(base, body)? };
    let ends_below = position.owed.last().is_none_or(|run| run.last < position.horizon);
    ends_below.then_some(position)
}

/// The first runs as they are, all others owed to everybody.
fn owed_to_all(position: &Position, keep: usize) -> Position {
    let (kept, others) = position.owed.split_at(keep);
    let mut owed = kept.to_vec();
    for run in others {
        match owed.last_mut() {
            Some(last) if last.last + 1 == run.first && last.owed == Owed::All => last.last = run.last,
            _ => owed.push(Run { first: run.first, last: run.last, owed: Owed::All }),
        }
    }
    Position { base: position.base, horizon: position.horizon, owed }
}

/// The shorter form.
fn pack(position: &Position) -> Vec<u8> {
    let table = Table::new(&position.owed);
    let form = |by_columns: bool, write: fn(&Table, i64, &mut Writer)| {
        let mut out = Writer::default();
        out.bits(u64::from(by_columns), 1);
        out.gamma(position.horizon.abs_diff(position.base));
        table.write_hashes(&mut out);
        write(&table, position.base, &mut out);
        out.finish()
    };
    let (by_rows, by_columns) = (form(false, rows::write), form(true, columns::write));
    if by_columns.len() < by_rows.len() { by_columns } else { by_rows }
}

fn unpack(base: i64, body: &[u8]) -> Option<Position> {
    let mut reader = Reader::new(body);
    let by_columns = reader.bit()?;
    let horizon = base.checked_add(i64::try_from(reader.gamma()?).ok()?)?;
    let hashes = table::read_hashes(&mut reader)?;
    let read = if by_columns { columns::read } else { rows::read };
    Some(Position { base, horizon, owed: read(&hashes, base, &mut reader)? })
}

fn text_len(packed: &[u8]) -> usize {
    PREFIX.len() + BASE64URL_NOPAD.encode_len(CHECKSUM + packed.len())
}

fn text(position: &Position, packed: &[u8]) -> String {
    let bytes = [&checksum(position.base, packed), packed].concat();
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
}

fn checksum(base: i64, body: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(base.to_be_bytes()).chain_update(body).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}
