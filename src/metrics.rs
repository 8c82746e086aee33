//! What is counted, under the names that a monitoring system sees.
//!
//! Owns the registry. Counters are added to once a turn or once an event, never once a frame. It knows none of
//! those who tell it what happened.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A number that only grows.
pub type Count = Counter<u64, AtomicU64>;

/// Every metric of the daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections taken from the kernel.
    pub connections_accepted: Count,
    /// Connections told that the server is full, or cut because it is fuller than that.
    pub connections_refused: Count,
    /// Connections open now.
    pub connections: Gauge,
    /// WebSockets open now.
    pub websockets: Gauge,
    /// Event streams open.
    pub event_streams: Gauge,
    /// Timers held now.
    pub timers: Gauge,
    /// Exam sessions held.
    pub sessions: Gauge,
    /// Exam sessions that time moves: in progress, or in their grace.
    pub sessions_running: Gauge,
    /// Rooms held.
    pub rooms: Gauge,
    /// People of all rooms.
    pub room_people: Gauge,
    /// Events stored.
    pub events: Count,
    /// Subscribers who have said what they want.
    pub subscribers: Gauge,
    /// HTTP requests answered.
    pub requests: Count,
    /// Messages of clients on WebSockets.
    pub messages: Count,
    /// Frames of announcements put into outboxes.
    pub frames: Count,
    /// Ticks that gave way to a newer one in the outbox of a client that does not keep up.
    pub ticks_replaced: Count,
    /// Clients closed because they did not keep up.
    pub slow_clients: Count,
    /// Connections shed because they dribbled, fell silent or sent what is no protocol.
    pub connections_shed: Count,
    /// How late deadlines were served, in seconds.
    pub deadline_lateness: Histogram,
    /// How long one turn of the loop took, in seconds.
    pub turn_duration: Histogram,
    /// Batches made durable.
    pub commits: Count,
    /// Batches that could not be written.
    pub commits_failed: Count,
    /// How long a batch was in the disk's hands, in seconds.
    pub commit_duration: Histogram,
    /// 1 while commands cannot be carried out.
    pub degraded: Gauge,
    /// Steps of the wall clock noticed.
    pub wall_steps: Count,
    /// Times that a connection could not be accepted for want of a descriptor.
    pub descriptors_exhausted: Count,
    /// Log lines dropped because nobody read them.
    pub log_lines_dropped: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let fine = || Histogram::new([1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0, 5.0]);
        let mut metrics = Metrics {
            registry: Registry::with_prefix("timerd"),
            connections_accepted: Count::default(),
            connections_refused: Count::default(),
            connections: Gauge::default(),
            websockets: Gauge::default(),
            event_streams: Gauge::default(),
            timers: Gauge::default(),
            sessions: Gauge::default(),
            sessions_running: Gauge::default(),
            rooms: Gauge::default(),
            room_people: Gauge::default(),
            events: Count::default(),
            subscribers: Gauge::default(),
            requests: Count::default(),
            messages: Count::default(),
            frames: Count::default(),
            ticks_replaced: Count::default(),
            slow_clients: Count::default(),
            connections_shed: Count::default(),
            deadline_lateness: fine(),
            turn_duration: fine(),
            commits: Count::default(),
            commits_failed: Count::default(),
            commit_duration: fine(),
            degraded: Gauge::default(),
            wall_steps: Count::default(),
            descriptors_exhausted: Count::default(),
            log_lines_dropped: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    /// The text format of OpenMetrics.
    ///
    /// # Errors
    /// Never for a `String`; the encoder's signature says otherwise.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::with_capacity(8 << 10);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let counts: [(&str, &str, &Count); 13] = [
            ("connections_accepted", "Connections taken from the kernel", &self.connections_accepted),
            ("connections_refused", "Connections told that the server is full", &self.connections_refused),
            ("events", "Events stored", &self.events),
            ("requests", "HTTP requests answered", &self.requests),
            ("messages", "Messages of WebSocket clients", &self.messages),
            ("frames", "Frames of announcements queued for clients", &self.frames),
            ("ticks_replaced", "Ticks that gave way to newer ones", &self.ticks_replaced),
            ("slow_clients", "Clients closed because they did not keep up", &self.slow_clients),
            ("connections_shed", "Connections shed for dribbling, silence or nonsense", &self.connections_shed),
            ("commits", "Batches made durable", &self.commits),
            ("commits_failed", "Batches that could not be written", &self.commits_failed),
            ("wall_steps", "Steps of the wall clock noticed", &self.wall_steps),
            ("descriptors_exhausted", "Accepts that failed for want of a descriptor", &self.descriptors_exhausted),
        ];
        for (name, help, count) in counts {
            registry.register(name, help, count.clone());
        }
        let gauges: [(&str, &str, &Gauge); 11] = [
            ("connections", "Connections open", &self.connections),
            ("websockets", "WebSockets open", &self.websockets),
            ("event_streams", "Event streams open", &self.event_streams),
            ("timers", "Timers held", &self.timers),
            ("sessions", "Exam sessions held", &self.sessions),
            ("sessions_running", "Exam sessions in progress or in their grace", &self.sessions_running),
            ("rooms", "Rooms held", &self.rooms),
            ("room_people", "People of all rooms", &self.room_people),
            ("subscribers", "Subscribers who have said what they want", &self.subscribers),
            ("degraded", "1 while commands cannot be carried out", &self.degraded),
            ("log_lines_dropped", "Log lines dropped because nobody read them", &self.log_lines_dropped),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let histograms: [(&str, &str, &Histogram); 3] = [
            ("deadline_lateness", "How late deadlines were served", &self.deadline_lateness),
            ("turn_duration", "Length of a turn of the loop", &self.turn_duration),
            ("commit_duration", "Time of a batch in the disk's hands", &self.commit_duration),
        ];
        for (name, help, histogram) in histograms {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}
