//! Several futures at once, in one task.
//!
//! *Invariants*: results keep the order of the futures; at most a given number is under way.
//!
//! *Not here*: tasks; a request never spawns one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Futures whose results come in the order in which they were pushed.
pub struct InOrder<F: Future> {
    slots: VecDeque<Slot<F>>,
}

enum Slot<F: Future> {
    Running(Pin<Box<F>>),
    Done(F::Output),
}

impl<F: Future> InOrder<F> {
    /// None yet.
    pub fn new() -> Self {
        Self { slots: VecDeque::new() }
    }

    /// How many have not given their result.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Adds one; it runs from the next poll on.
    pub fn push(&mut self, future: F) {
        self.slots.push_back(Slot::Running(Box::pin(future)));
    }

    /// Polls all, and gives the result of the oldest where that one is done.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<F::Output> {
        for slot in &mut self.slots {
            if let Slot::Running(future) = slot
                && let Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *slot = Slot::Done(output);
            }
        }
        match self.slots.pop_front() {
            Some(Slot::Done(output)) => Poll::Ready(output),
            Some(running @ Slot::Running(_)) => {
                self.slots.push_front(running);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

/// Runs all, at most `most` at once, and gives their results in order.
pub async fn all<F: Future>(futures: impl IntoIterator<Item = F>, most: usize) -> Vec<F::Output> {
    let mut futures = futures.into_iter();
    let mut running = InOrder::new();
    let mut outputs = Vec::new();
    loop {
        while running.count() < most
            && let Some(future) = futures.next()
        {
            running.push(future);
        }
        if running.count() == 0 {
            return outputs;
        }
        outputs.push(poll_fn(|cx| running.poll_next(cx)).await);
    }
}
