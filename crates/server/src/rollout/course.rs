//! How updates went over time, and what devices ran.

use std::collections::HashMap;

use model::job::Job;
use store::JobRow;

use super::{RolloutError, Rollouts};
use crate::views::StatsSpanView;

/// Spans of one answer at most: a day each for longer than a year.
const N_SPANS_MAX: i64 = 400;
/// The shortest span, an hour: a finer course would be one of single devices.
const STEP_MIN_MS: i64 = 3_600_000;

/// What a device ran, in words, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Past {
    /// Since when it is known, milliseconds since 1970.
    since_ms: i64,
    /// What it ran before the first of its updates.
    before: String,
    /// When an update ended well, and what it ran from then on; the oldest first.
    updates: Vec<(i64, String)>,
}

impl Past {
    fn ran_at(&self, at_ms: i64) -> Option<&str> {
        let last = self.updates.iter().rev().find(|(ended_ms, _)| *ended_ms <= at_ms);
        match last {
            Some((_, name)) => Some(name),
            None => (self.since_ms <= at_ms).then_some(&self.before),
        }
    }
}

/// The spans from a moment to now; the last one may still go on.
fn spans(since_ms: i64, step_ms: i64, now_ms: i64) -> Vec<StatsSpanView> {
    let all_ms = now_ms.saturating_sub(since_ms).max(0);
    let step_ms = step_ms.max(STEP_MIN_MS).max(all_ms / N_SPANS_MAX);
    let starts = (0..N_SPANS_MAX).map_while(|idx| {
        let from_ms = since_ms.saturating_add(step_ms.saturating_mul(idx));
        (from_ms < now_ms).then_some(from_ms)
    });
    let span = |from_ms: i64| StatsSpanView {
        from_ms,
        until_ms: from_ms.saturating_add(step_ms).min(now_ms),
        ..StatsSpanView::default()
    };
    starts.map(span).collect()
}

/// Fills the spans with what jobs, and devices, tell.
fn fill(spans: &mut [StatsSpanView], ends: &[(i64, bool)], pasts: &[Past]) {
    for (ended_ms, is_good) in ends {
        let idx = spans.partition_point(|span| span.from_ms <= *ended_ms);
        if let Some(span) = idx.checked_sub(1).and_then(|idx| spans.get_mut(idx)) {
            span.n_meant += 1;
            span.n_proven += u64::from(*is_good);
        }
    }
    for span in spans {
        for name in pasts.iter().filter_map(|past| past.ran_at(span.until_ms)) {
            *span.running.entry(name.to_owned()).or_default() += 1;
        }
    }
}

impl Rollouts {
    /// The course of these jobs, the newest first, in steps.
    pub(super) async fn course(
        &self,
        jobs: &[JobRow],
        since_ms: i64,
        step_ms: i64,
    ) -> Result<Vec<StatsSpanView>, RolloutError> {
        let mut spans = spans(since_ms, step_ms, self.inner.engine.clock().now().wall_ms);
        let mut ends = Vec::new();
        let mut good: HashMap<String, Vec<&JobRow>> = HashMap::new();
        for job in jobs.iter().rev() {
            let (Some(outcome), Some(ended_ms)) = (&job.outcome, job.ended_ms) else {
                continue;
            };
            let is_good = outcome.ending.is_success();
            if is_good || model::fleet::is_failure(outcome.ending) {
                ends.push((ended_ms, is_good));
            }
            if is_good {
                good.entry(job.device.key()).or_default().push(job);
            }
        }
        let mut pasts = Vec::new();
        for known in self.inner.fleet.all_known() {
            if !known.enrolled {
                continue;
            }
            let mut past = Past {
                since_ms: known.first_seen_ms,
                before: known.runs.name.clone(),
                updates: Vec::new(),
            };
            if let Some(good) = good.get(&known.id.key()) {
                past.before = match good.first() {
                    Some(first) => self.before(first, &*known.family).await?.unwrap_or(past.before),
                    None => past.before,
                };
                for job in good {
                    let name = self.inner.repository.name_of(job.image);
                    let name = name.unwrap_or_else(|| job.image.to_string().chars().take(12).collect());
                    past.updates.push((job.ended_ms.unwrap_or(job.started_ms), name));
                }
                // What it runs now is known better than what was once brought to it.
                if let Some((_, name)) = past.updates.last_mut() {
                    *name = known.runs.name;
                }
            }
            pasts.push(past);
        }
        fill(&mut spans, &ends, &pasts);
        Ok(spans)
    }

    /// What a device ran before a job, in words.
    async fn before(
        &self,
        job: &JobRow,
        family: &dyn model::family::Family,
    ) -> Result<Option<String>, RolloutError> {
        let row = self.inner.store.job_row(job.job).await;
        let row = row.map_err(|error| RolloutError::store(&error))?;
        let job = row.and_then(|(_, state)| serde_json::from_value::<Job>(state).ok());
        Ok(job
            .and_then(|job| job.evidence.before)
            .map(|look| family.words(&look.snapshot.versions)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn past(since_ms: i64, before: &str, updates: &[(i64, &str)]) -> Past {
        Past {
            since_ms,
            before: before.to_owned(),
            updates: updates.iter().map(|&(ms, name)| (ms, name.to_owned())).collect(),
        }
    }

    #[test]
    fn spans_reach_from_the_moment_to_now_and_are_few() {
        let three = spans(0, HOUR_MS, 2 * HOUR_MS + 1);
        let bounds: Vec<_> = three.iter().map(|span| (span.from_ms, span.until_ms)).collect();
        assert_eq!(
            bounds,
            [
                (0, HOUR_MS),
                (HOUR_MS, 2 * HOUR_MS),
                (2 * HOUR_MS, 2 * HOUR_MS + 1)
            ]
        );
        assert!(spans(10, HOUR_MS, 10).is_empty(), "nothing has passed");
        assert!(spans(10, HOUR_MS, 0).is_empty(), "it lies ahead");
        let since_ever = spans(i64::MIN, 1, i64::MAX);
        assert!(since_ever.len() <= 400 && !since_ever.is_empty());
    }

    #[test]
    fn each_end_counts_where_it_lies_and_what_came_before_nowhere() {
        let mut spans = spans(HOUR_MS, HOUR_MS, 3 * HOUR_MS);
        let ends = [
            (HOUR_MS - 1, true),
            (HOUR_MS, false),
            (2 * HOUR_MS - 1, true),
            (2 * HOUR_MS, true),
        ];
        fill(&mut spans, &ends, &[]);
        let counts: Vec<_> = spans.iter().map(|span| (span.n_proven, span.n_meant)).collect();
        assert_eq!(counts, [(1, 2), (1, 1)]);
    }

    #[test]
    fn devices_run_what_the_last_update_brought_and_are_not_counted_before_they_were_known() {
        let mut spans = spans(0, HOUR_MS, 3 * HOUR_MS);
        let pasts = [
            past(0, "1.0", &[(HOUR_MS + 1, "1.1"), (2 * HOUR_MS + 1, "1.0")]),
            past(HOUR_MS + 5, "1.1", &[]),
            // Found again later than it was updated, as after its removal.
            past(3 * HOUR_MS, "1.0", &[(HOUR_MS + 7, "1.1")]),
        ];
        fill(&mut spans, &[], &pasts);
        let running: Vec<Vec<(&str, u64)>> = spans
            .iter()
            .map(|span| span.running.iter().map(|(name, n)| (name.as_str(), *n)).collect())
            .collect();
        assert_eq!(
            running,
            [vec![("1.0", 1)], vec![("1.1", 3)], vec![("1.0", 1), ("1.1", 2)]]
        );
    }
}
