//! Strings kept once, each known by a small number.
//!
//! *Invariants*: a number stands for one string as long as that one is used at least once; before a
//! number stands for another string, [`Interner::version`] has changed.
//!
//! *Not here*: what the strings mean (`metadata`).

use hashbrown::HashTable;

use crate::image::{Part, Reader, Unsound, Writer, ensure};
use crate::text::hash_bytes;

/// Distinct strings with the number of their uses.
#[derive(Default)]
pub struct Interner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    table: HashTable<u32>,
    text_bytes: usize,
    version: u64,
}

struct Slot {
    text: Box<str>,
    uses: u32,
}

impl Part for Interner {
    const NAME: &'static str = "interned strings";
    const VERSION: u32 = 1;

    fn write(&self, out: &mut Writer<'_>) {
        let Self { slots, free, table: _, text_bytes, version } = self;
        out.count(slots.len());
        for Slot { text, uses } in slots {
            out.text(text);
            out.u32(*uses);
        }
        out.pods(free);
        out.count(*text_bytes);
        out.u64(*version);
    }

    fn read(input: &mut Reader<'_>) -> Result<Self, Unsound> {
        let count = input.count()?;
        let mut slots: Vec<Slot> = input.room(count);
        for _ in 0..count {
            slots.push(Slot { text: input.text()?, uses: input.u32()? });
        }
        let free: Vec<u32> = input.pods()?;
        let unused = |&number: &u32| slots.get(number as usize).is_some_and(|s| s.uses == 0);
        ensure(free.iter().all(unused), "a free number of a string")?;
        let (text_bytes, version) = (input.count()?, input.u64()?);
        let mut table = HashTable::with_capacity(slots.len());
        let hash = |&number: &u32| hash_bytes(slots[number as usize].text.as_bytes());
        for (number, _) in (0u32..).zip(&slots).filter(|(_, slot)| slot.uses > 0) {
            table.insert_unique(hash(&number), number, hash);
        }
        Ok(Self { slots, free, table, text_bytes, version })
    }
}

impl Interner {
    /// Whether the string of this number is used.
    pub fn is_used(&self, number: u32) -> bool {
        self.slots.get(number as usize).is_some_and(|slot| slot.uses > 0)
    }

    /// Uses `text` once more and returns its number.
    pub fn acquire(&mut self, text: &str) -> u32 {
        if let Some(number) = self.find(text) {
            self.slots[number as usize].uses += 1;
            return number;
        }
        self.version += 1;
        self.text_bytes += text.len();
        let slot = Slot { text: text.into(), uses: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).expect("fewer strings than fit in memory")
            }
        };
        let slots = &self.slots;
        self.table.insert_unique(hash_bytes(text.as_bytes()), number, |&other| {
            hash_bytes(slots[other as usize].text.as_bytes())
        });
        number
    }

    /// Ends one use of the string of this number.
    pub fn release(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        assert!(slot.uses > 0, "only what was acquired is released");
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let text = std::mem::take(&mut slot.text);
        let hash = hash_bytes(text.as_bytes());
        let entry = self.table.find_entry(hash, |&other| other == number);
        entry.expect("a used string is in the table").remove();
        self.text_bytes -= text.len();
        self.free.push(number);
        self.version += 1;
    }

    /// The number of `text`, if it is used.
    pub fn find(&self, text: &str) -> Option<u32> {
        let same = |&number: &u32| &*self.slots[number as usize].text == text;
        self.table.find(hash_bytes(text.as_bytes()), same).copied()
    }

    /// The string of a number in use.
    pub fn text(&self, number: u32) -> &str {
        &self.slots[number as usize].text
    }

    /// How often the string of this number is used.
    pub fn uses(&self, number: u32) -> usize {
        self.slots[number as usize].uses as usize
    }

    /// How many distinct strings are used.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Changes whenever a string comes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.text_bytes
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * size_of::<u32>()
            + self.table.allocation_size()
    }
}
