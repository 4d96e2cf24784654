//! Learning curves for people: of a result, every epoch; of an attempt that runs, one point for each
//! epoch after which a progress report arrived, or fewer where there are many.

use sweep::handoff::Progress;
use sweep::record::EpochRecord;

use crate::event::Event;

/// Points of a curve at most.
const MAX_POINTS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Number of finished epochs.
    pub epoch: u32,
    pub train_loss: Option<f64>,
    /// Fraction of the evaluation set; absent if no epoch has been evaluated yet.
    pub accuracy: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<Point>,
    /// Epochs between two points at least, but for the last one.
    step: u32,
}

impl Curve {
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Adds the epoch that a report shows as finished, unless it is known.
    pub(crate) fn add(&mut self, progress: &Progress) {
        let point = Point {
            epoch: progress.epoch,
            train_loss: progress.train_loss,
            accuracy: progress.accuracy,
        };
        if point.epoch == 0
            || self
                .points
                .last()
                .is_some_and(|last| last.epoch >= point.epoch)
        {
            return;
        }
        if let [.., before, last] = &mut *self.points
            && last.epoch - before.epoch < self.step
        {
            *last = point;
            return;
        }
        self.points.push(point);
        if self.points.len() > MAX_POINTS {
            self.step = self.step.max(1).saturating_mul(2);
            let mut kept = 0;
            self.points.retain(|point| {
                let is_kept = kept == 0 || point.epoch >= kept + self.step;
                kept = if is_kept { point.epoch } else { kept };
                is_kept || point.epoch == progress.epoch
            });
        }
    }
}

/// Returns the curve of a result, from the event that holds it; empty for another event.
pub fn of_result(event: &Event) -> Vec<Point> {
    match event {
        Event::AttemptSucceeded { result, .. } => of_epochs(&result.epochs),
        _ => Vec::new(),
    }
}

/// Returns the curve of all epochs of a result.
pub fn of_epochs(epochs: &[EpochRecord]) -> Vec<Point> {
    let points = (1..).zip(epochs).map(|(epoch, record)| Point {
        epoch,
        train_loss: Some(record.train_loss),
        accuracy: record.accuracy,
    });
    points.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(epoch: u32) -> Progress {
        Progress {
            epoch,
            train_loss: Some(f64::from(epoch)),
            ..Progress::default()
        }
    }

    #[test]
    fn each_finished_epoch_is_one_point() {
        let mut curve = Curve::default();
        for epoch in [0, 0, 1, 1, 1, 3, 2] {
            curve.add(&progress(epoch));
        }
        let epochs: Vec<u32> = curve.points().iter().map(|point| point.epoch).collect();
        assert_eq!(epochs, [1, 3]);
        assert_eq!(curve.points()[1].train_loss, Some(3.0));
    }

    #[test]
    fn a_long_curve_keeps_its_whole_range_in_few_points() {
        let mut curve = Curve::default();
        for epoch in 1..=10_000 {
            curve.add(&progress(epoch));
        }
        let points = curve.points();
        assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&points.len()));
        assert_eq!(points[0].epoch, 1);
        assert_eq!(points.last().map(|point| point.epoch), Some(10_000));
        assert!(points.windows(2).all(|pair| pair[0].epoch < pair[1].epoch));
    }
}
