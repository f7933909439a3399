import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/**
 * The work on Kafka Streams, and the helpers of a comparison. One JSON line on stdout.
 *
 * <pre>
 * filter-map | count   --bootstrap B --in T --out T --records N [--warmup W] [--max-seconds S] [--cache BYTES] [--commit MS]
 *                      [--threads N] [--guarantee at_least_once|exactly_once_v2] [--state DIR]
 *     runs until N input records are processed (or S seconds after the warm-up), closes in good order, and reports what
 *     happened after the first W records: records, seconds, CPU seconds of the whole process; and its peak memory.
 * topics               --bootstrap B --create T,T... [--partitions P] | --delete T,T...
 * make-input           --bootstrap B --in T --records N --keys K --value-size BYTES
 *     record i: key = i mod K as eight big-endian bytes, value = pseudo-random bytes of i; partition by the default partitioner
 * verify filter-map|count --bootstrap B --out T
 *     reads the output (read_committed); filter-map: records and a checksum; count: keys and the sum of their last values
 * </pre>
 *
 * filter-map keeps values whose first byte is even and adds one to the last byte (wrapping). count is groupByKey().count()
 * to the output topic with Long values.
 */
public final class StreamsBench {
    private static final OperatingSystemMXBean OS = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();

    public static void main(String[] args) throws Exception {
        boolean named = args.length > 1 && !args[1].startsWith("--");
        Map<String, String> options = new HashMap<>();
        for (int at = named ? 2 : 1; at + 1 < args.length; at += 2) options.put(args[at].replaceFirst("^--", ""), args[at + 1]);
        switch (args.length == 0 ? "" : args[0]) {
            case "filter-map", "count" -> work(args[0], options);
            case "topics" -> topics(options);
            case "make-input" -> makeInput(options);
            case "verify" -> verify(args[1], options);
            default -> {
                System.err.println("StreamsBench: filter-map | count | topics | make-input | verify; see bench/java/StreamsBench.java");
                System.exit(2);
            }
        }
    }

    private static void work(String work, Map<String, String> options) throws Exception {
        long records = Long.parseLong(need(options, "records"));
        long warmup = Long.parseLong(options.getOrDefault("warmup", "0"));
        double maxSeconds = Double.parseDouble(options.getOrDefault("max-seconds", "1e9"));
        Path state = options.containsKey("state") ? Path.of(options.get("state")) : Files.createTempDirectory("streams-bench");
        Properties config = new Properties();
        config.put("application.id", "bench-" + System.nanoTime());
        config.put("bootstrap.servers", need(options, "bootstrap"));
        config.put("state.dir", state.toString());
        config.put("auto.offset.reset", "earliest");
        config.put("num.stream.threads", options.getOrDefault("threads", "1"));
        config.put("processing.guarantee", options.getOrDefault("guarantee", "at_least_once"));
        if (options.containsKey("cache")) config.put("statestore.cache.max.bytes", options.get("cache"));
        if (options.containsKey("commit")) config.put("commit.interval.ms", options.get("commit"));

        var builder = new StreamsBuilder();
        var input = builder.stream(need(options, "in"), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()));
        if (work.equals("filter-map")) {
            input.filter((key, value) -> value != null && value.length > 0 && (value[0] & 1) == 0)
                .mapValues(value -> {
                    byte[] changed = value.clone();
                    changed[changed.length - 1]++;
                    return changed;
                })
                .to(need(options, "out"), Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
        } else {
            input.groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .count(Materialized.as("counts"))
                .toStream()
                .to(need(options, "out"), Produced.with(Serdes.ByteArray(), Serdes.Long()));
        }

        var failure = new AtomicReference<Throwable>();
        var streams = new KafkaStreams(builder.build(), config);
        streams.setUncaughtExceptionHandler(thrown -> {
            failure.set(thrown);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        long startedAt = System.nanoTime();
        streams.start();
        // The counters of the threads themselves, so that the topology holds nothing but the work.
        List<Metric> counters = List.of();
        long at = 0, lastSeen = 0, lastMoved = startedAt;
        long warmAt = startedAt, warmCpu = OS.getProcessCpuTime(), warmRecords = 0;
        boolean warm = warmup == 0;
        while (at < records) {
            if (failure.get() != null) throw new IllegalStateException("the stream failed", failure.get());
            if (counters.size() < Integer.parseInt(config.getProperty("num.stream.threads"))) counters = counters(streams);
            at = counters.stream().mapToLong(counter -> ((Double) counter.metricValue()).longValue()).sum();
            long now = System.nanoTime();
            if (at != lastSeen) lastMoved = now;
            lastSeen = at;
            if (now - lastMoved > 60e9) throw new IllegalStateException("no record processed for a minute, at " + at);
            if (!warm && at >= warmup) {
                warm = true;
                warmAt = now;
                warmCpu = OS.getProcessCpuTime();
                warmRecords = at;
            }
            if (warm && now - warmAt > maxSeconds * 1e9) break;
            Thread.sleep(10);
        }
        double seconds = (System.nanoTime() - warmAt) / 1e9;
        double cpu = (OS.getProcessCpuTime() - warmCpu) / 1e9;
        // Flushes caches and the producer and commits: part of the work, unless it was cut short, when nobody knows how many
        // records are processed between the cut and the close.
        if (!streams.close(Duration.ofMinutes(2))) throw new IllegalStateException("the streams did not close in two minutes");
        if (at >= records) {
            seconds = (System.nanoTime() - warmAt) / 1e9;
            cpu = (OS.getProcessCpuTime() - warmCpu) / 1e9;
        }
        System.out.printf(Locale.ROOT,
            "{\"impl\":\"kafka-streams 4.3.1\",\"work\":\"%s\",\"records\":%d,\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"peak_rss_kb\":%d,\"processed\":%d,\"complete\":%b}%n",
            work, at - warmRecords, seconds, cpu, peakRss(), at, at >= records);
        System.out.flush();
        if (!options.containsKey("state")) delete(state);
    }

    private static List<Metric> counters(KafkaStreams streams) {
        return streams.metrics().values().stream()
            .filter(metric -> metric.metricName().name().equals("process-total")
                && metric.metricName().group().equals("stream-thread-metrics"))
            .collect(Collectors.toList());
    }

    private static long peakRss() throws Exception {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) return Long.parseLong(line.replaceAll("[^0-9]", ""));
        }
        return 0;
    }

    private static void delete(Path dir) throws Exception {
        try (var paths = Files.walk(dir)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).toList()) Files.delete(path);
        }
    }

    private static void topics(Map<String, String> options) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", need(options, "bootstrap")))) {
            if (options.containsKey("delete")) admin.deleteTopics(List.of(options.get("delete").split(","))).all().get();
            if (!options.containsKey("create")) return;
            var partitions = Optional.of(Integer.parseInt(options.getOrDefault("partitions", "2")));
            var keep = Map.of("retention.ms", "-1", "message.timestamp.type", "CreateTime");
            admin.createTopics(Arrays.stream(options.get("create").split(","))
                .map(name -> new NewTopic(name, partitions, Optional.of((short) 1)).configs(keep)).toList()).all().get();
        }
    }

    private static void makeInput(Map<String, String> options) throws Exception {
        long records = Long.parseLong(need(options, "records"));
        long keys = Long.parseLong(need(options, "keys"));
        int size = Integer.parseInt(need(options, "value-size"));
        Properties config = new Properties();
        config.put("bootstrap.servers", need(options, "bootstrap"));
        config.put("batch.size", 256 * 1024);
        config.put("linger.ms", 20);
        config.put("buffer.memory", 64 * 1024 * 1024);
        var failure = new AtomicReference<Exception>();
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (long i = 0; i < records; i++) {
                ByteBuffer value = ByteBuffer.allocate(size + 8);
                for (long z = i; value.position() < size; z++) value.putLong(mix(z * 31 + value.position()));
                byte[] key = ByteBuffer.allocate(8).putLong(i % keys).array();
                producer.send(new ProducerRecord<>(need(options, "in"), key, Arrays.copyOf(value.array(), size)), (at, thrown) -> {
                    if (thrown != null) failure.set(thrown);
                });
            }
        }
        if (failure.get() != null) throw failure.get();
        System.out.printf("{\"made\":%d}%n", records);
    }

    /** The finalizer of SplitMix64. */
    private static long mix(long x) {
        long z = x + 0x9E3779B97F4A7C15L;
        z = (z ^ z >>> 30) * 0xBF58476D1CE4E5B9L;
        z = (z ^ z >>> 27) * 0x94D049BB133111EBL;
        return z ^ z >>> 31;
    }

    private static void verify(String work, Map<String, String> options) {
        Properties config = new Properties();
        config.put("bootstrap.servers", need(options, "bootstrap"));
        config.put("isolation.level", "read_committed");
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        config.put("max.poll.records", "50000");
        config.put("max.partition.fetch.bytes", "16777216");
        long records = 0, checksum = 0;
        Map<Long, Long> last = new HashMap<>();
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Set<TopicPartition> partitions = consumer.partitionsFor(need(options, "out")).stream()
                .map(info -> new TopicPartition(info.topic(), info.partition())).collect(Collectors.toSet());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            var ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    records++;
                    if (work.equals("count")) {
                        last.put(ByteBuffer.wrap(record.key()).getLong(), ByteBuffer.wrap(record.value()).getLong());
                    } else {
                        // A sum of hashes: the same for the same records in any order.
                        checksum += mix(31L * Arrays.hashCode(record.key()) + Arrays.hashCode(record.value()));
                    }
                }
            }
        }
        long sum = last.values().stream().mapToLong(Long::longValue).sum();
        if (work.equals("count")) System.out.printf("{\"records\":%d,\"keys\":%d,\"sum\":%d}%n", records, last.size(), sum);
        else System.out.printf("{\"records\":%d,\"checksum\":\"%016x\"}%n", records, checksum);
    }

    private static String need(Map<String, String> options, String name) {
        String value = options.get(name);
        if (value == null) {
            System.err.println("StreamsBench: --" + name + " is missing");
            System.exit(2);
        }
        return value;
    }
}
