//! Images per second for display: over whole steps and whole epochs of an attempt, so that neither
//! the moment of a report nor an evaluation in between changes it.

use std::time::{Duration, Instant};

/// Minimum time to measure; shorter epochs are combined.
const WINDOW: Duration = Duration::from_secs(2);
/// Shortest time that gives a measurement.
const SHORTEST: Duration = Duration::from_millis(200);

pub struct Rate {
    /// End of the step from which this epoch is measured.
    began: Instant,
    images: u64,
    /// Time that the previous epochs added to the measurement.
    carried: Duration,
    carried_images: u64,
    /// False during an attempt's first step, which also allocates memory and starts threads, and is
    /// not measured.
    is_warm: bool,
    per_s: f64,
}

impl Rate {
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            images: 0,
            carried: Duration::ZERO,
            carried_images: 0,
            is_warm: false,
            per_s: 0.0,
        }
    }

    /// Returns the rate, or 0 before the first measurement.
    pub fn per_s(&self) -> f64 {
        self.per_s
    }

    pub fn epoch_began(&mut self, now: Instant) {
        (self.began, self.images) = (now, 0);
    }

    pub fn step_made(&mut self, images: usize, now: Instant) {
        if !self.is_warm {
            self.is_warm = true;
            self.epoch_began(now);
            return;
        }
        self.images += images as u64;
        let least = if self.per_s > 0.0 { WINDOW } else { SHORTEST };
        if self.elapsed(now) >= least {
            self.measure(now);
        }
    }

    /// Ends an epoch. `now`: end of the last step, before the evaluation.
    pub fn epoch_ended(&mut self, now: Instant) {
        let elapsed = self.elapsed(now);
        if elapsed >= SHORTEST {
            self.measure(now);
        }
        if elapsed >= WINDOW {
            (self.carried, self.carried_images) = (Duration::ZERO, 0);
        } else {
            (self.carried, self.carried_images) = (elapsed, self.carried_images + self.images);
        }
        self.epoch_began(now);
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.carried + now.saturating_duration_since(self.began)
    }

    fn measure(&mut self, now: Instant) {
        let images = self.carried_images + self.images;
        if images > 0 {
            self.per_s = images as f64 / self.elapsed(now).as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of 16 images in 250 ms and evaluations of 1.3 s: 64 images per second, at every
    /// moment.
    #[test]
    fn evaluations_and_the_first_step_do_not_change_it() {
        let start = Instant::now();
        let mut now = start;
        let mut rate = Rate::new(now);
        now += Duration::from_millis(3_000);
        rate.step_made(16, now);
        assert_eq!(rate.per_s(), 0.0, "the first step warms up");
        for _ in 0..4 {
            for _ in 0..3 {
                now += Duration::from_millis(250);
                rate.step_made(16, now);
                assert!(
                    (rate.per_s() - 64.0).abs() < 1e-9,
                    "{} images/s",
                    rate.per_s()
                );
            }
            rate.epoch_ended(now);
            now += Duration::from_millis(1_300);
            rate.epoch_began(now);
        }
        assert!(
            (rate.per_s() - 64.0).abs() < 1e-9,
            "{} images/s",
            rate.per_s()
        );
    }

    /// Epochs of two steps of 20 ms are measured together.
    #[test]
    fn short_epochs_are_measured_together() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now);
        rate.step_made(10, now);
        for epoch in 0..400 {
            for _ in 0..2 {
                now += Duration::from_millis(10);
                rate.step_made(10, now);
            }
            rate.epoch_ended(now);
            now += Duration::from_millis(500);
            rate.epoch_began(now);
            if epoch >= 10 {
                assert!(
                    (rate.per_s() - 1000.0).abs() < 1e-6,
                    "epoch {epoch}: {} images/s",
                    rate.per_s()
                );
            }
        }
    }

    #[test]
    fn a_slower_machine_shows_after_one_epoch() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now);
        let mut epoch = |step: u64, rate: &mut Rate| {
            for _ in 0..5 {
                now += Duration::from_millis(step);
                rate.step_made(100, now);
            }
            rate.epoch_ended(now);
        };
        epoch(1000, &mut rate);
        assert!((rate.per_s() - 100.0).abs() < 1e-9);
        epoch(2000, &mut rate);
        assert!((rate.per_s() - 50.0).abs() < 1e-9);
    }
}
