//! Messages from other threads to a shard: a bounded queue whose receiver is awaited by one detached
//! task in the foreground queue, and answers that travel back to a plain thread.

use futures_channel::mpsc;
use futures_lite::StreamExt;

/// Sends to a shard, from any thread.
#[derive(Debug)]
pub(crate) struct Sender<T>(mpsc::Sender<T>);

/// Receives in a shard.
#[derive(Debug)]
pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

/// A queue of `depth` messages, and one more per sender.
pub(crate) fn bounded<T>(depth: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(depth);
    (Sender(sender), Receiver(receiver))
}

impl<T> Sender<T> {
    /// Sends without waiting; gives the message back when the queue is full or the shard is gone.
    pub(crate) fn send(&mut self, message: T) -> Result<(), T> {
        self.0
            .try_send(message)
            .map_err(mpsc::TrySendError::into_inner)
    }
}

impl<T> Receiver<T> {
    /// The next message; `None` when all senders are gone.
    pub(crate) async fn receive(&mut self) -> Option<T> {
        self.0.next().await
    }
}
