//! Every figure, once: its name, labels, unit, level, Java's name and its meaning. What is registered, how it is described
//! to the recorder, and docs/METRICS.md follow from it.

use crate::config::RecordingLevel;

/// What a figure can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime) enum FigureKind {
    /// It only grows.
    Counter,
    /// It is what it is now.
    Gauge,
    /// Each sample counts.
    Histogram,
}

/// A figure of the table.
#[derive(Debug)]
pub(in crate::runtime) struct Figure {
    pub(super) name: &'static str,
    pub(super) kind: FigureKind,
    /// Beside `application`.
    pub(super) labels: &'static [&'static str],
    pub(super) unit: &'static str,
    pub(super) level: RecordingLevel,
    #[cfg_attr(not(test), allow(dead_code, reason = "read by the test of docs/METRICS.md"))]
    pub(super) java: &'static str,
    pub(super) meaning: &'static str,
}

/// Declares the table: `NAME: Kind "name" [labels] "unit" Level, java "group: metric", "meaning";`
macro_rules! figures {
    ($($const:ident: $kind:ident $name:literal [$($label:literal)*] $unit:literal $level:ident, java $java:literal,
       $meaning:literal;)+) => {
        $(pub(in crate::runtime) static $const: Figure = Figure {
            name: $name,
            kind: FigureKind::$kind,
            labels: &[$($label),*],
            unit: $unit,
            level: RecordingLevel::$level,
            java: $java,
            meaning: $meaning,
        };)+

        pub(in crate::runtime) static TABLE: &[&Figure] = &[$(&$const),+];
    };
}

figures! {
    CLIENT_INFO: Gauge "mainstem_client_info" ["version"] "" Info,
        java "stream-metrics: version, application-id",
        "Always 1; the labels tell.";
    CLIENT_STATE: Gauge "mainstem_client_state" [] "" Info,
        java "stream-metrics: client-state",
        "The place of the state in `AppState`, 0 for `Created`.";
    CLIENT_WORKERS: Gauge "mainstem_client_workers" [] "workers" Info,
        java "stream-metrics: alive-stream-threads",
        "Workers that have not ended.";
    CLIENT_FAILURES: Counter "mainstem_client_failures_total" [] "errors" Info,
        java "stream-metrics: failed-stream-threads",
        "Errors that a task, a worker or the group could not go on with.";
    CLIENT_REBALANCES: Counter "mainstem_client_rebalances_total" [] "rebalances" Info,
        java "consumer-coordinator-metrics: rebalance-total",
        "Assignments taken.";
    CLIENT_REBALANCE: Histogram "mainstem_client_rebalance_seconds" [] "seconds" Info,
        java "consumer-coordinator-metrics: rebalance-latency-avg, -max, -total",
        "From the first JoinGroup to the assignment.";
    CLIENT_TASKS_LOST: Counter "mainstem_client_tasks_lost_total" [] "tasks" Info,
        java "stream-thread-metrics: tasks-lost-latency; consumer-coordinator-metrics: partition-lost-latency",
        "Tasks that the group gave to others because this member was given up.";
    STATE_WIPED: Counter "mainstem_state_wiped_total" ["reason"] "stores" Info,
        java "(none)",
        "Stores whose local state was not believed, deleted and restored from the start of the changelog; the log says more.";
    MEMORY_HELD: Gauge "mainstem_memory_bytes" ["share"] "bytes" Info,
        java "(none)",
        "What a share of the instance's memory takes: `input` (fetched records in queues), `restores` (fetched records of \
         changelogs, and what is gathered of them), `stores` (rows as values, and changes on their way to the disk), \
         `caches`, `output` (records not acknowledged).";
    MEMORY_LIMIT: Gauge "mainstem_memory_limit_bytes" ["share"] "bytes" Info,
        java "(none)",
        "What the share may take. Restores take theirs from the stores'.";
    MEMORY_MOST: Gauge "mainstem_memory_most_bytes" [] "bytes" Info,
        java "(none)",
        "The most that all shares have taken together since the start.";
    MEMORY_BUDGET: Gauge "mainstem_memory_budget_bytes" [] "bytes" Info,
        java "(none)",
        "What they may take together, with what engines keep of their files: see `memory.max.bytes`.";
    MEMORY_ACTIONS: Counter "mainstem_memory_actions_total" ["action"] "actions" Info,
        java "(none)",
        "What was done because a share was full: `pause` (partitions with records are not fetched), `apply` (a restore \
         applies what it has gathered before its end), `evict` (rows go that can be read again), `commit` (early), \
         `hand_over` (of a store, because of its bytes), `wait` (of a commit, for a hand-over), `flush` (of a record cache), \
         `hold` (a worker waits until records are acknowledged).";
    DROPPED: Counter "mainstem_dropped_records_total" ["node" "reason"] "records" Info,
        java "stream-task-metrics: dropped-records-total",
        "Records that went no further than a node; for the node `producer`, those that a broker refused. Added up at commits.";

    WORKER_START: Gauge "mainstem_worker_start_time_seconds" ["worker"] "seconds" Info,
        java "stream-thread-metrics: thread-start-time",
        "When the worker started, since the Unix epoch.";
    WORKER_TASKS: Gauge "mainstem_worker_tasks" ["worker"] "tasks" Info,
        java "(none)",
        "Tasks on the worker.";
    WORKER_RESTORING: Gauge "mainstem_worker_restoring_tasks" ["worker"] "tasks" Info,
        java "stream-state-updater-metrics: active-restoring-tasks",
        "Tasks on the worker whose stores are being restored.";
    WORKER_TASKS_CREATED: Counter "mainstem_worker_tasks_created_total" ["worker"] "tasks" Info,
        java "stream-thread-metrics: task-created-total",
        "Tasks built.";
    WORKER_TASKS_CLOSED: Counter "mainstem_worker_tasks_closed_total" ["worker"] "tasks" Info,
        java "stream-thread-metrics: task-closed-total",
        "Tasks that went, in whatever way.";
    WORKER_PROCESSED: Counter "mainstem_worker_processed_records_total" ["worker"] "records" Info,
        java "stream-thread-metrics: process-total, process-rate",
        "Input records that went all the way through.";
    WORKER_SLICE: Histogram "mainstem_worker_slice_records" ["worker"] "records" Info,
        java "stream-thread-metrics: process-records-avg, -max",
        "Records that one round over the worker's tasks has processed; rounds without any do not count.";
    WORKER_TIME: Counter "mainstem_worker_time_microseconds_total" ["worker" "activity"] "microseconds" Info,
        java "stream-thread-metrics: process-ratio, punctuate-ratio, commit-ratio, poll-ratio; blocked-time-ns-total",
        "Where the worker's time goes: `process`, `punctuate`, `commit` (its waiting for brokers included), `idle` (waiting \
         for records). The rate of one over the sum of all is Java's ratio.";
    WORKER_PUNCTUATIONS: Counter "mainstem_worker_punctuations_total" ["worker"] "calls" Info,
        java "stream-thread-metrics: punctuate-total, punctuate-rate",
        "Punctuations called.";
    WORKER_PUNCTUATE: Histogram "mainstem_worker_punctuate_seconds" ["worker"] "seconds" Info,
        java "stream-thread-metrics: punctuate-latency-avg, -max",
        "The time of one round of punctuations that had any.";
    WORKER_COMMITS: Counter "mainstem_worker_commits_total" ["worker"] "commits" Info,
        java "stream-thread-metrics: commit-total, commit-rate",
        "Commits of the worker's tasks that had something to commit.";
    WORKER_COMMITS_POSTPONED: Counter "mainstem_worker_commits_postponed_total" ["worker"] "commits" Info,
        java "(none)",
        "Commits that waited for the next generation of the group.";
    WORKER_ROLLED_BACK: Counter "mainstem_worker_transactions_aborted_total" ["worker"] "transactions" Info,
        java "producer-metrics: txn-abort-time-ns-total",
        "Transactions that were aborted, so that the worker's tasks went back to the last commit.";
    WORKER_COMMIT: Histogram "mainstem_worker_commit_seconds" ["worker"] "seconds" Info,
        java "stream-thread-metrics: commit-latency-avg, -max; consumer-coordinator-metrics: commit-latency-avg, -max",
        "The time of a commit: caches flushed, records acknowledged, offsets committed.";
    PRODUCER_BATCHES: Counter "mainstem_producer_batches_total" ["worker"] "batches" Info,
        java "producer-metrics: batch-size-avg, record-send-total",
        "Batches handed over for sending.";
    PRODUCER_BYTES: Counter "mainstem_producer_bytes_total" ["worker"] "bytes" Info,
        java "producer-metrics: outgoing-byte-total",
        "Their bytes, compressed.";
    PRODUCER_RETRIES: Counter "mainstem_producer_retries_total" ["worker"] "batches" Info,
        java "producer-metrics: record-retry-total",
        "Answers after which a batch was sent again.";
    PRODUCER_ERRORS: Counter "mainstem_producer_errors_total" ["worker"] "batches" Info,
        java "producer-metrics: record-error-total",
        "Batches that were given up.";
    PRODUCER_BUFFER: Gauge "mainstem_producer_buffered_bytes" ["worker"] "bytes" Info,
        java "producer-metrics: buffer-total-bytes minus buffer-available-bytes",
        "Bytes written by tasks and not acknowledged.";
    TOPIC_RECORDS_PRODUCED: Counter "mainstem_topic_records_produced_total" ["worker" "topic"] "records" Info,
        java "stream-topic-metrics: records-produced-total",
        "Records sent to a topic; sinks, repartition topics, changelogs and dead letters. Counted when sent.";
    TOPIC_BYTES_PRODUCED: Counter "mainstem_topic_bytes_produced_total" ["worker" "topic"] "bytes" Info,
        java "stream-topic-metrics: bytes-produced-total",
        "Their keys, values and headers.";

    TASK_PROCESSED: Counter "mainstem_task_processed_records_total" ["worker" "task"] "records" Info,
        java "stream-task-metrics: process-total, process-rate",
        "Input records taken, from all the task's partitions.";
    TASK_PROCESS: Histogram "mainstem_task_process_seconds" ["worker" "task"] "seconds" Info,
        java "stream-task-metrics: process-latency-avg, -max, active-process-ratio",
        "The time of one slice, up to 1000 records; the sum is the task's share of the worker.";
    TASK_LATENCY: Histogram "mainstem_task_record_latency_seconds" ["worker" "task"] "seconds" Info,
        java "stream-processor-node-metrics: record-e2e-latency-avg, -min, -max",
        "How old the oldest record of a slice was, by its timestamp, when the slice was done.";
    TASK_LATENESS: Counter "mainstem_task_record_lateness_milliseconds_total" ["worker" "task"] "milliseconds" Info,
        java "stream-task-metrics: record-lateness-avg",
        "How far records were behind stream time, added up; over the records processed it is the average.";
    TASK_LATENESS_MAX: Gauge "mainstem_task_record_lateness_max_milliseconds" ["worker" "task"] "milliseconds" Info,
        java "stream-task-metrics: record-lateness-max",
        "The furthest of the last second.";
    TASK_ENFORCED: Counter "mainstem_task_enforced_slices_total" ["worker" "task"] "slices" Info,
        java "stream-task-metrics: enforced-processing-total",
        "Slices that went on without records of an input after `max.task.idle.ms`.";
    TASK_PUNCTUATIONS: Counter "mainstem_task_punctuations_total" ["worker" "task"] "calls" Info,
        java "stream-task-metrics: punctuate-total",
        "Punctuations called.";
    TASK_COMMITS: Counter "mainstem_task_commits_total" ["worker" "task"] "commits" Info,
        java "stream-task-metrics: commit-total, commit-rate",
        "Commits that the task took part in.";
    TASK_STREAM_TIME: Gauge "mainstem_task_stream_time_seconds" ["worker" "task"] "seconds" Info,
        java "(none)",
        "The greatest timestamp seen, since the Unix epoch; 0 before the first record.";
    TASK_BUFFERED: Gauge "mainstem_task_buffered_records" ["worker" "task"] "records" Info,
        java "stream-task-metrics: active-buffer-count",
        "About how many records wait in the task's queues.";
    TASK_CACHE: Gauge "mainstem_task_cache_bytes" ["worker" "task"] "bytes" Info,
        java "stream-task-metrics: cache-size-bytes-total",
        "Bytes that the task's record caches hold back.";
    TASK_STATE_ROWS: Gauge "mainstem_task_state_rows_bytes" ["worker" "task"] "bytes" Info,
        java "(none)",
        "What the rows take, about, that the task's stores have in memory as values.";
    TASK_STATE_OPEN: Gauge "mainstem_task_state_open_bytes" ["worker" "task"] "bytes" Info,
        java "(none)",
        "Of these, the rows that have changed since the last commit.";
    TASK_STATE_RUNS: Gauge "mainstem_task_state_unflushed_bytes" ["worker" "task"] "bytes" Info,
        java "stream-state-metrics: size-all-mem-tables (of all stores)",
        "What the changes take, about, that are committed and not yet on disk.";
    TASK_RESTORED: Counter "mainstem_task_restored_records_total" ["worker" "task"] "records" Info,
        java "stream-task-metrics: restore-total, restore-rate; stream-state-updater-metrics: restore-records-rate",
        "Changelog records applied to the task's stores.";
    TASK_RESTORE_REMAINING: Gauge "mainstem_task_restore_remaining_records" ["worker" "task"] "records" Info,
        java "stream-task-metrics: restore-remaining-records-total",
        "Offsets of changelogs still to be read before the task runs.";
    TOPIC_RECORDS_CONSUMED: Counter "mainstem_topic_records_consumed_total" ["worker" "task" "topic"] "records" Info,
        java "stream-topic-metrics: records-consumed-total",
        "Records taken from a topic.";
    TOPIC_BYTES_CONSUMED: Counter "mainstem_topic_bytes_consumed_total" ["worker" "task" "topic"] "bytes" Info,
        java "stream-topic-metrics: bytes-consumed-total",
        "Their keys, values and headers.";
    PARTITION_LAG: Gauge "mainstem_partition_lag_records" ["worker" "task" "topic" "partition"] "records" Info,
        java "consumer-fetch-manager-metrics: records-lag",
        "From the next offset to process to the end of the partition as its broker said last. Java's counts from the next \
         offset to fetch.";
    PARTITION_FETCHED: Counter "mainstem_partition_fetched_bytes_total" ["worker" "task" "topic" "partition"] "bytes" Info,
        java "consumer-fetch-manager-metrics: bytes-consumed-total",
        "Bytes of batches that came, compressed.";

    NODE_PROCESSED: Counter "mainstem_node_processed_records_total" ["worker" "task" "node"] "records" Debug,
        java "stream-processor-node-metrics: process-total, process-rate",
        "Records that have reached a node.";

    STORE_ENTRIES: Gauge "mainstem_store_entries" ["worker" "task" "store"] "rows" Info,
        java "stream-state-metrics: estimate-num-keys",
        "Rows, roughly: one that was changed since the last commit may count twice.";
    STORE_GETS: Counter "mainstem_store_gets_total" ["worker" "task" "store"] "calls" Debug,
        java "stream-state-metrics: get-rate, fetch-rate",
        "Rows read, also by an aggregation or a table that replaces them.";
    STORE_PUTS: Counter "mainstem_store_puts_total" ["worker" "task" "store"] "calls" Debug,
        java "stream-state-metrics: put-rate, put-if-absent-rate",
        "Rows written.";
    STORE_DELETES: Counter "mainstem_store_deletes_total" ["worker" "task" "store"] "calls" Debug,
        java "stream-state-metrics: delete-rate",
        "Calls of `delete`.";
    STORE_SCANS: Counter "mainstem_store_scans_total" ["worker" "task" "store"] "calls" Debug,
        java "stream-state-metrics: range-rate, all-rate, prefix-scan-rate",
        "Scans begun.";
    STORE_RESTORED: Counter "mainstem_store_restored_records_total" ["worker" "task" "store"] "records" Debug,
        java "stream-state-metrics: restore-rate",
        "Changelog records applied.";
    STORE_ITERATORS: Gauge "mainstem_store_open_iterators" ["worker" "task" "store"] "iterators" Info,
        java "stream-state-metrics: num-open-iterators",
        "Iterators of processors that have not been dropped. Those of local queries read a view of their own and are not \
         counted.";
    CACHE_HITS: Counter "mainstem_cache_hits_total" ["worker" "task" "store"] "reads" Debug,
        java "stream-record-cache-metrics: hit-ratio-avg, -min, -max",
        "Look-ups that found their row in the table of recent rows, for stores with a record cache. Over hits and misses it \
         is Java's ratio.";
    CACHE_MISSES: Counter "mainstem_cache_misses_total" ["worker" "task" "store"] "reads" Debug,
        java "stream-record-cache-metrics: hit-ratio-avg, -min, -max",
        "Look-ups that had to go below it.";
}
