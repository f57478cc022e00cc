//! Looks at all nodes all the time: at most one leader per term, and nothing that must only grow goes back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::arena::status;

/// From one look to the next.
const INTERVAL: Duration = Duration::from_millis(15);

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Who led, by term.
    leaders: Mutex<BTreeMap<u64, String>>,
    stop: AtomicBool,
}

impl Monitor {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Looks at one node until it is told to stop. Gives how often it was answered.
    ///
    /// # Panics
    /// At the first thing that is wrong.
    pub fn watch(&self, host: &str) -> u64 {
        let mut looks = 0;
        let mut before: Option<Value> = None;
        while !self.stop.load(Ordering::Acquire) {
            if let Some(now) = status(host) {
                self.look(&now, before.as_ref());
                looks += 1;
                before = Some(now);
            }
            std::thread::sleep(INTERVAL);
        }
        looks
    }

    fn look(&self, now: &Value, before: Option<&Value>) {
        let number = |status: &Value, field: &str| status[field].as_u64().unwrap();
        if now["role"] == "leader" {
            let (term, name) = (number(now, "term"), now["name"].as_str().unwrap());
            let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
            let first = leaders.entry(term).or_insert_with(|| name.to_owned());
            assert_eq!(first, name, "two leaders in term {term}");
        }
        let Some(before) = before else { return };
        // The term is kept over restarts; before the log is opened there is none to show.
        if now["phase"] == "running" && before["phase"] == "running" {
            assert!(number(now, "term") >= number(before, "term"), "the term went back: {before}, then {now}");
        }
        if number(now, "start_count") == number(before, "start_count") {
            for field in ["commit_index", "applied_index"] {
                assert!(number(now, field) >= number(before, field), "{field} went back: {before}, then {now}");
            }
        }
    }

    /// Terms in which somebody was seen to lead.
    pub fn terms_led(&self) -> u64 {
        self.leaders.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}
