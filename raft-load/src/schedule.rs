//! When the requests of an open loop are due.

use std::time::{Duration, Instant};

/// Request number n is due n intervals after the beginning; no interval is ever added to the one before, so no error adds
/// up.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    begin: Instant,
    per_second: f64,
}

impl Schedule {
    /// `per_second` requests a second from `begin` on.
    #[must_use]
    pub fn new(begin: Instant, per_second: f64) -> Self {
        assert!(per_second > 0.0, "a rate of {per_second} per second");
        Self { begin, per_second }
    }

    /// When request `number` is due, counted from zero.
    #[must_use]
    pub fn due(&self, number: u64) -> Instant {
        self.begin + Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// How many requests are due before `end`.
    #[must_use]
    pub fn before(&self, end: Instant) -> u64 {
        let about = (end.saturating_duration_since(self.begin).as_secs_f64() * self.per_second).ceil() as u64;
        // The product may be a hair too large: what counts is when the last one is due.
        if about > 0 && self.due(about - 1) >= end { about - 1 } else { about }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_multiples_of_the_interval() {
        let begin = Instant::now();
        let schedule = Schedule::new(begin, 4.0);
        assert_eq!(schedule.due(0), begin);
        assert_eq!(schedule.due(1), begin + Duration::from_millis(250));
        assert_eq!(schedule.due(4_000_000), begin + Duration::from_secs(1_000_000));
    }

    #[test]
    fn as_many_are_due_as_the_rate_says() {
        let begin = Instant::now();
        let schedule = Schedule::new(begin, 3.0);
        // At 0, 1/3 and 2/3 s; the one at 1 s is not before 1 s.
        assert_eq!(schedule.before(begin + Duration::from_secs(1)), 3);
        assert_eq!(schedule.before(begin + Duration::from_millis(1100)), 4);
        assert_eq!(schedule.before(begin), 0);
        // In floating point 0.55 times 200 is more than 110.
        assert_eq!(Schedule::new(begin, 200.0).before(begin + Duration::from_millis(550)), 110);
    }
}
