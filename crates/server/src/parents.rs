//! Who holds a managed server beside whoever started it: parents that keep a stream open (`GET /attach`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a server waits for its next parent once the last has left (../shared/INTERFACES.md 2: a parent that is
/// started anew adopts it within that time).
pub const GRACE: Duration = Duration::from_secs(10);
/// Parents at once. Guess: there is one, and for a moment the one that follows it.
const N_PARENTS: usize = 8;

/// The parents that are attached. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Parents {
    standing: Arc<watch::Sender<Standing>>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    n_attached: usize,
    /// When the last has left; none where none was ever there.
    left: Option<Instant>,
}

impl Default for Parents {
    fn default() -> Self {
        let (standing, _) = watch::channel(Standing {
            n_attached: 0,
            left: None,
        });
        Self {
            standing: Arc::new(standing),
        }
    }
}

impl Parents {
    /// One more, until what is given back is dropped; none where there are too many.
    pub fn attach(&self) -> Option<Parent> {
        let attached = self.standing.send_if_modified(|standing| {
            let has_room = standing.n_attached < N_PARENTS;
            standing.n_attached += usize::from(has_room);
            has_room
        });
        attached.then(|| Parent {
            standing: Arc::clone(&self.standing),
        })
    }

    /// How many there are.
    pub fn n_attached(&self) -> usize {
        self.standing.borrow().n_attached
    }

    /// Comes back when none is attached and the last, if there was one, has been gone for that long.
    pub async fn gone_for(&self, grace: Duration) {
        let mut changes = self.standing.subscribe();
        loop {
            let Standing { n_attached, left } = *changes.borrow_and_update();
            let moved = async {
                // The sender lives as long as this does.
                let _ = changes.changed().await;
            };
            match left {
                _ if n_attached > 0 => moved.await,
                None => return,
                Some(left) => {
                    if tokio::time::timeout_at(left + grace, moved).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// One parent that is attached, until it is dropped.
#[derive(Debug)]
pub struct Parent {
    standing: Arc<watch::Sender<Standing>>,
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.standing.send_modify(|standing| {
            standing.n_attached -= 1;
            standing.left = Some(Instant::now());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// Whether it is still held after several times the grace.
    async fn is_held(parents: &Parents) -> bool {
        tokio::time::timeout(5 * SHORT, parents.gone_for(SHORT))
            .await
            .is_err()
    }

    #[tokio::test]
    async fn the_last_one_counts_and_not_the_first() {
        let parents = Parents::default();
        assert!(!is_held(&parents).await, "nobody was ever there");
        let first = parents.attach().unwrap();
        let second = parents.attach().unwrap();
        assert!(is_held(&parents).await);
        drop(first);
        assert_eq!(parents.n_attached(), 1);
        assert!(is_held(&parents).await);
        let before = Instant::now();
        drop(second);
        parents.gone_for(SHORT).await;
        assert!(before.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn whoever_comes_within_the_grace_holds_it_again() {
        let parents = Parents::default();
        drop(parents.attach());
        let next = {
            let waits = parents.gone_for(GRACE);
            tokio::pin!(waits);
            assert!(tokio::time::timeout(SHORT, &mut waits).await.is_err());
            let next = parents.attach().unwrap();
            assert!(tokio::time::timeout(SHORT, &mut waits).await.is_err());
            next
        };
        assert!(is_held(&parents).await);
        drop(next);
        assert!(!is_held(&parents).await);
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let parents = Parents::default();
        let mut held: Vec<_> = (0..N_PARENTS).map(|_| parents.attach().unwrap()).collect();
        assert!(parents.attach().is_none());
        held.pop();
        assert!(parents.attach().is_some());
    }
}
