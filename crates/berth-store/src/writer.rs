//! The one thread that writes.

use crate::file::File;
use crate::{Batch, RECORDS, StoreError};
use redb::Database;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Bounds how much one transaction holds in memory, and how long the first of a group waits.
const GROUP_BATCHES_MAX: usize = 256;

type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub(crate) struct Writer {
    sender: Mutex<Option<Sender<(Batch, Done)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(file: Arc<File>) -> Writer {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .stack_size(256 << 10)
            .spawn(move || write_all(&file, &receiver))
            .ok();
        Writer { sender: Mutex::new(Some(sender)), thread }
    }

    pub(crate) fn submit(&self, batch: Batch, done: Done) {
        let sender = self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let unsent = match &*sender {
            Some(sender) => sender.send((batch, done)).err().map(|unsent| unsent.0.1),
            None => Some(done),
        };
        if let Some(done) = unsent {
            done(Err(StoreError::Closed));
        }
    }
}

impl Drop for Writer {
    /// What was submitted is still written.
    fn drop(&mut self) {
        self.sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            thread.join().ok();
        }
    }
}

fn write_all(file: &File, receiver: &Receiver<(Batch, Done)>) {
    while let Ok(first) = receiver.recv() {
        let mut group = vec![first];
        while group.len() < GROUP_BATCHES_MAX
            && let Ok(next) = receiver.try_recv()
        {
            group.push(next);
        }
        let result = file.work(|database| write(database, &group)).map_err(|cause| StoreError::Write(Arc::new(cause)));
        for (_, done) in group {
            done(result.clone());
        }
    }
}

fn write(database: &Database, group: &[(Batch, Done)]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for (key, value) in group.iter().flat_map(|(batch, _)| &batch.changes) {
            match value {
                Some(value) => drop(records.insert(key.as_str(), value.as_slice())?),
                None => drop(records.remove(key.as_str())?),
            }
        }
    }
    transaction.commit()?;
    Ok(())
}
