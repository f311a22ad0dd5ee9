//! Numbers in few bits, written and read back. Pure.
//!
//! A number alone is written in Elias' gamma code. Many of a kind are written in a Rice code (Golomb's with a power of
//! two) whose parameter suits them: for runs of independent chances it is within a few hundredths of the entropy, and
//! with parameter 0 a list of runs is a bitmap. What is far larger than the others escapes into the gamma code.

/// A quotient from here on is written as so many ones, and the number in gamma code: one far gap among thousands of
/// near ones costs some fifty bits, and does not raise the parameter for all.
const ESCAPE: u32 = 16;
/// Bits of a written parameter.
const PARAMETER: u32 = 6;
/// The parameter of the code of nothing but zeros, which takes no bits at all.
const ZEROS: u32 = 63;
/// Most things that one text may list, since some take no bits: far more than are in memory at any time.
const MOST_LISTED: usize = 1 << 22;

/// Writes bits, the highest first.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    pending: u64,
    waiting: u32,
}

impl Writer {
    /// The lowest `count` bits of a number that has no higher ones.
    pub(super) fn bits(&mut self, value: u64, count: u32) {
        if count > 32 {
            self.bits(value >> 32, count - 32);
            return self.bits(value & u64::from(u32::MAX), 32);
        }
        self.pending = self.pending << count | value;
        self.waiting += count;
        while self.waiting >= 8 {
            self.waiting -= 8;
            self.bytes.push((self.pending >> self.waiting) as u8);
        }
        self.pending &= (1 << self.waiting) - 1;
    }

    /// A number of unknown size, below 2^64 − 1.
    pub(super) fn gamma(&mut self, number: u64) {
        let length = gamma_bits(number).div_ceil(2);
        self.bits(0, length - 1);
        self.bits(number + 1, length);
    }

    /// All that was written; the last byte is filled with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let missing = (8 - self.waiting) % 8;
        self.bits(0, missing);
        self.bytes
    }
}

/// Reads what a [`Writer`] wrote; `None` where there is nothing more, or nothing of that kind.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    may_list: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, may_list: MOST_LISTED }
    }

    pub(super) fn bits(&mut self, count: u32) -> Option<u64> {
        (0..count).try_fold(0, |bits, _| Some(bits << 1 | u64::from(self.bit()?)))
    }

    pub(super) fn gamma(&mut self) -> Option<u64> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
        }
        (zeros < 64).then_some(())?;
        Some((1 << zeros | self.bits(zeros)?) - 1)
    }

    /// A number of things that are listed.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.gamma()?).ok()?;
        self.may_list = self.may_list.checked_sub(count)?;
        Some(count)
    }

    pub(super) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Some(bit)
    }
}

/// A Rice code, by its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rice(u32);

impl Rice {
    /// The code that suits these numbers.
    pub(super) fn fit(numbers: &(impl Iterator<Item = u64> + Clone)) -> Self {
        let (count, length) = numbers.clone().fold((0_u64, 0_u64), |(count, length), number| {
            (count + 1, length + u64::from(u64::BITS - number.leading_zeros()))
        });
        if length == 0 {
            return Self(ZEROS);
        }
        // The best one is near the mean length; which one it is, is counted.
        let near = u32::try_from(length.div_ceil(count.max(1))).expect("a mean of numbers up to 64");
        let cost = |code: &Self| numbers.clone().map(|number| u64::from(code.cost(number))).sum::<u64>();
        let codes = (near.saturating_sub(3)..=near.min(62)).map(Self);
        codes.min_by_key(cost).expect("there is at least one")
    }

    /// Bits of a number in this code.
    pub(super) fn cost(self, number: u64) -> u32 {
        match number >> self.0 {
            0 if self.0 == ZEROS => 0,
            quotient if quotient < u64::from(ESCAPE) => quotient as u32 + 1 + self.0,
            _ => ESCAPE + gamma_bits(number),
        }
    }

    pub(super) fn write(self, number: u64, out: &mut Writer) {
        match number >> self.0 {
            0 if self.0 == ZEROS => {}
            quotient if quotient < u64::from(ESCAPE) => {
                out.bits((1 << quotient) - 1, quotient as u32);
                out.bits(0, 1);
                out.bits(number & ((1 << self.0) - 1), self.0);
            }
            _ => {
                out.bits((1 << ESCAPE) - 1, ESCAPE);
                out.gamma(number);
            }
        }
    }

    pub(super) fn read(self, reader: &mut Reader<'_>) -> Option<u64> {
        if self.0 == ZEROS {
            return Some(0);
        }
        let mut quotient = 0_u64;
        while reader.bit()? {
            quotient += 1;
            if quotient == u64::from(ESCAPE) {
                return reader.gamma();
            }
        }
        quotient.checked_mul(1 << self.0)?.checked_add(reader.bits(self.0)?)
    }

    /// Writes the code itself.
    pub(super) fn announce(self, out: &mut Writer) {
        out.bits(u64::from(self.0), PARAMETER);
    }

    /// Reads the code itself.
    pub(super) fn announced(reader: &mut Reader<'_>) -> Option<Self> {
        reader.bits(PARAMETER).map(|parameter| Self(parameter as u32))
    }
}

fn gamma_bits(number: u64) -> u32 {
    2 * (u64::BITS - (number + 1).leading_zeros()) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        (0..64_u32, any::<u64>()).prop_map(|(shift, number)| (number >> shift).min(i64::MAX as u64))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(numbers in prop::collection::vec(number(), 0..50)) {
            let code = Rice::fit(&numbers.iter().copied());
            let mut out = Writer::default();
            code.announce(&mut out);
            for number in &numbers {
                out.gamma(*number);
                code.write(*number, &mut out);
                out.bits(number >> 32, 32);
            }
            let bytes = out.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(Rice::announced(&mut reader), Some(code));
            for number in &numbers {
                prop_assert_eq!(reader.gamma(), Some(*number));
                prop_assert_eq!(code.read(&mut reader), Some(*number));
                prop_assert_eq!(reader.bits(32), Some(number >> 32));
            }
        }

        #[test]
        fn junk_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..50), parameter in 0..ZEROS) {
            let mut reader = Reader::new(&bytes);
            while Rice(parameter).read(&mut reader).is_some() {}
            let mut reader = Reader::new(&bytes);
            while reader.gamma().is_some() {}
        }
    }

    #[test]
    fn a_code_that_suits_is_found() {
        let rows: [(&[u64], u32, u32); 5] = [
            (&[0; 100], ZEROS, 0),
            (&[1, 0, 0, 1, 0, 2, 0, 0], 0, 12),
            (&[1000, 1010, 900, 1040], 9, 45),
            (&[3, 2, 1, 3, 2, 0, 3, 1_000_000], 1, 74),
            (&[], ZEROS, 0),
        ];
        for (numbers, parameter, bits) in rows {
            let code = Rice::fit(&numbers.iter().copied());
            let cost: u32 = numbers.iter().map(|number| code.cost(*number)).sum();
            assert_eq!((code, cost), (Rice(parameter), bits), "{numbers:?}");
        }
    }
}
