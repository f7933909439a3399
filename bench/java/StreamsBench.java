import com.sun.management.OperatingSystemMXBean;
import java.io.BufferedReader;
import java.io.InputStreamReader;
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
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;

/**
 * The work on Kafka Streams, and the helpers of a comparison. One JSON line on stdout.
 *
 * <pre>
 * filter-map | count | wordcount
 *                      --bootstrap B --in T --out T --records N [--warmup W] [--max-seconds S] [--cache BYTES] [--commit MS]
 *                      [--threads N] [--guarantee at_least_once|exactly_once_v2] [--state DIR]
 *                      [--warm-in T --warm-out T]
 *     runs until N input records are processed (or S seconds after the warm-up), closes in good order, and reports what
 *     happened after the first W records: records, seconds, CPU seconds of the whole process; and its peak memory.
 *     With --warm-in the first W records are another topic's, processed by an application of their own before the clock
 *     starts: where one record becomes many, those of the start are no fair share of the work.
 * serve filter-map|count|wordcount --bootstrap B --in T --out T [settings as above]
 *     runs until stdin ends; a line when it is running, and one for each line of stdin: seconds since the start, CPU
 *     seconds of the process, resident memory now and at most, records processed
 * topics               --bootstrap B --create T,T... [--partitions P] | --delete T,T...
 * make-input           --bootstrap B --in T --records N --keys K --value-size BYTES [--rate RECORDS-A-SECOND] [--draw turns|zipf]
 *     record i: key = i mod K as eight big-endian bytes (zipf: the r-th key about 1/r as often as the first, in an order that
 *     looks random), value = pseudo-random bytes of i; partition by the default partitioner
 * make-lines           --bootstrap B --in T --records N --keys WORDS --partitions P
 *     lines of 14 words out of that many, the r-th word about 1/r as often as the first, 100 bytes on average, no keys
 * restore              --bootstrap B --in T --out T --application-id ID [--threads N] [--guarantee G] [--state-dir D]
 *                      [--instance ID] [--stay yes]
 *     brings the store of count back from ID-counts-changelog, which is there: records, seconds and CPU of that. The state
 *     directory is a temporary one, or D, which stays; with --stay it goes on until stdin ends, one JSON line a line of it
 * verify filter-map|count|wordcount --bootstrap B --out T
 *     reads the output (read_committed); filter-map: records and a checksum; count and wordcount: keys, the sum of their
 *     last values, and a checksum of the table
 * </pre>
 *
 * filter-map keeps values whose first byte is even and adds one to the last byte (wrapping). count is groupByKey().count()
 * to the output topic with Long values. wordcount is flatMapValues(split on the space).groupBy(word).count(): the words
 * go through a repartition topic.
 */
public final class StreamsBench {
    private static final OperatingSystemMXBean OS = (OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean();
    /** The words of a line. */
    private static final int WORDS = 14;

    public static void main(String[] args) throws Exception {
        boolean named = args.length > 1 && !args[1].startsWith("--");
        Map<String, String> options = new HashMap<>();
        for (int at = named ? 2 : 1; at + 1 < args.length; at += 2) options.put(args[at].replaceFirst("^--", ""), args[at + 1]);
        switch (args.length == 0 ? "" : args[0]) {
            case "filter-map", "count", "wordcount" -> work(args[0], options);
            case "serve" -> serve(args[1], options);
            case "restore" -> restore(options);
            case "topics" -> topics(options);
            case "make-input", "make-lines" -> makeInput(args[0].equals("make-lines"), options);
            case "verify" -> verify(args[1], options);
            default -> {
                System.err.println("StreamsBench: filter-map | count | wordcount | serve | topics | make-input | make-lines | verify | restore; see bench/java/StreamsBench.java");
                System.exit(2);
            }
        }
    }

    private static void work(String work, Map<String, String> options) throws Exception {
        long records = Long.parseLong(need(options, "records"));
        long warmup = Long.parseLong(options.getOrDefault("warmup", "0"));
        double maxSeconds = Double.parseDouble(options.getOrDefault("max-seconds", "1e9"));
        // A line is itself and its words.
        long perRecord = work.equals("wordcount") ? 1 + WORDS : 1;
        boolean first = options.containsKey("warm-in");
        if (first) run(work, options, need(options, "warm-in"), need(options, "warm-out"), warmup * perRecord, 0, 1e9);
        var figures = run(work, options, need(options, "in"), need(options, "out"), records * perRecord,
            first ? 0 : warmup * perRecord, maxSeconds);
        System.out.printf(Locale.ROOT,
            "{\"impl\":\"kafka-streams 4.3.1\",\"work\":\"%s\",\"records\":%d,\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"peak_rss_kb\":%d,\"processed\":%d,\"complete\":%b}%n",
            work, figures.records / perRecord, figures.seconds, figures.cpu, status("VmHWM"), figures.processed, figures.complete);
    }

    private record Figures(long records, double seconds, double cpu, long processed, boolean complete) {}

    private static Properties config(Map<String, String> options, Path state) {
        Properties config = new Properties();
        config.put("application.id", "bench-" + System.nanoTime());
        config.put("bootstrap.servers", need(options, "bootstrap"));
        config.put("state.dir", state.toString());
        config.put("auto.offset.reset", "earliest");
        config.put("num.stream.threads", options.getOrDefault("threads", "1"));
        config.put("processing.guarantee", options.getOrDefault("guarantee", "at_least_once"));
        if (options.containsKey("cache")) config.put("statestore.cache.max.bytes", options.get("cache"));
        if (options.containsKey("commit")) config.put("commit.interval.ms", options.get("commit"));
        if (options.containsKey("linger")) config.put("producer.linger.ms", options.get("linger"));
        return config;
    }

    private static Topology topology(String work, String in, String out) {
        var builder = new StreamsBuilder();
        if (work.equals("wordcount")) {
            builder.stream(in, Consumed.with(Serdes.ByteArray(), Serdes.String()))
                .flatMapValues(line -> Arrays.asList(line.split(" ")))
                .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()))
                .count(Materialized.as("counts"))
                .toStream()
                .to(out, Produced.with(Serdes.String(), Serdes.Long()));
            return builder.build();
        }
        var input = builder.stream(in, Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()));
        if (work.equals("filter-map")) {
            input.filter((key, value) -> value != null && value.length > 0 && (value[0] & 1) == 0)
                .mapValues(value -> {
                    byte[] changed = value.clone();
                    changed[changed.length - 1]++;
                    return changed;
                })
                .to(out, Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
        } else {
            input.groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .count(Materialized.as("counts"))
                .toStream()
                .to(out, Produced.with(Serdes.ByteArray(), Serdes.Long()));
        }
        return builder.build();
    }

    private static Figures run(String work, Map<String, String> options, String in, String out, long records, long warmup,
                               double maxSeconds) throws Exception {
        Path state = options.containsKey("state") ? Path.of(options.get("state")) : Files.createTempDirectory("streams-bench");
        Properties config = config(options, state);
        var failure = new AtomicReference<Throwable>();
        var streams = new KafkaStreams(topology(work, in, out), config);
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
        if (!options.containsKey("state")) delete(state);
        return new Figures(at - warmRecords, seconds, cpu, at, at >= records);
    }

    /** Runs until its input (stdin) ends, and answers each line there with what it has come to: see bench/harness.py. */
    private static void serve(String work, Map<String, String> options) throws Exception {
        Path state = Files.createTempDirectory("streams-bench");
        long startedAt = System.nanoTime();
        var streams = new KafkaStreams(topology(work, need(options, "in"), need(options, "out")), config(options, state));
        var running = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) running.countDown();
        });
        streams.setUncaughtExceptionHandler(thrown -> {
            thrown.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        running.await();
        look(streams, startedAt);
        var lines = new BufferedReader(new InputStreamReader(System.in));
        while (lines.readLine() != null) look(streams, startedAt);
        if (!streams.close(Duration.ofMinutes(2))) throw new IllegalStateException("the streams did not close in two minutes");
        delete(state);
    }

    /** Brings the store of count back from its changelog: from the start of the first restore to the end of the last. */
    private static void restore(Map<String, String> options) throws Exception {
        long started = System.nanoTime();
        boolean own = !options.containsKey("state-dir");
        Path state = own ? Files.createTempDirectory("streams-bench") : Path.of(options.get("state-dir"));
        Properties config = config(options, state);
        config.put("application.id", need(options, "application-id"));
        if (options.containsKey("instance")) config.put("group.instance.id", options.get("instance"));
        var streams = new KafkaStreams(topology("count", need(options, "in"), need(options, "out")), config);
        var running = new CountDownLatch(1);
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) running.countDown();
        });
        var records = new java.util.concurrent.atomic.AtomicLong();
        var began = new java.util.concurrent.atomic.AtomicReference<long[]>();
        var ended = new java.util.concurrent.atomic.AtomicReference<long[]>();
        streams.setGlobalStateRestoreListener(new org.apache.kafka.streams.processor.StateRestoreListener() {
            @Override public void onRestoreStart(org.apache.kafka.common.TopicPartition at, String store, long from, long to) {
                began.compareAndSet(null, new long[] {System.nanoTime(), OS.getProcessCpuTime()});
            }
            @Override public void onBatchRestored(org.apache.kafka.common.TopicPartition at, String store, long end, long count) {}
            @Override public void onRestoreEnd(org.apache.kafka.common.TopicPartition at, String store, long count) {
                records.addAndGet(count);
                ended.set(new long[] {System.nanoTime(), OS.getProcessCpuTime()});
            }
        });
        streams.start();
        running.await();
        double up = (System.nanoTime() - started) / 1e9;
        if (options.containsKey("stay")) {
            System.out.printf(Locale.ROOT, "{\"up_seconds\":%.3f}%n", up);
            System.out.flush();
            var lines = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
            while (lines.readLine() != null) look(streams, started);
        }
        // The state may be RUNNING before the listener has heard of the last store.
        streams.close(Duration.ofMinutes(2));
        double seconds = (ended.get()[0] - began.get()[0]) / 1e9;
        System.out.printf(Locale.ROOT,
            "{\"impl\":\"kafka-streams 4.3.1\",\"records\":%d,\"seconds\":%.3f,\"records_a_second\":%.0f,\"cpu_seconds\":%.3f,\"peak_rss_kb\":%d,\"up_seconds\":%.3f}%n",
            records.get(), seconds, records.get() / seconds, (ended.get()[1] - began.get()[1]) / 1e9, status("VmHWM"), up);
        if (own) delete(state);
    }

    private static void look(KafkaStreams streams, long startedAt) throws Exception {
        long processed = counters(streams).stream().mapToLong(counter -> ((Double) counter.metricValue()).longValue()).sum();
        System.out.printf(Locale.ROOT, "{\"seconds\":%.3f,\"cpu_seconds\":%.3f,\"rss_kb\":%d,\"peak_rss_kb\":%d,\"processed\":%d}%n",
            (System.nanoTime() - startedAt) / 1e9, OS.getProcessCpuTime() / 1e9, status("VmRSS"), status("VmHWM"), processed);
        System.out.flush();
    }

    private static List<Metric> counters(KafkaStreams streams) {
        return streams.metrics().values().stream()
            .filter(metric -> metric.metricName().name().equals("process-total")
                && metric.metricName().group().equals("stream-thread-metrics"))
            .collect(Collectors.toList());
    }

    /** A figure in kB of the process (Linux). */
    private static long status(String name) throws Exception {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith(name + ":")) return Long.parseLong(line.replaceAll("[^0-9]", ""));
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
            var names = List.of(options.get("create").split(","));
            admin.createTopics(names.stream().map(name -> new NewTopic(name, partitions, Optional.of((short) 1)).configs(keep)).toList())
                .all().get();
            // The controller has them now; the broker learns of many partitions a little later.
            while (true) {
                try {
                    admin.describeTopics(names).allTopicNames().get();
                    return;
                } catch (ExecutionException late) {
                    if (!(late.getCause() instanceof UnknownTopicOrPartitionException)) throw late;
                    Thread.sleep(50);
                }
            }
        }
    }

    private static void makeInput(boolean lines, Map<String, String> options) throws Exception {
        String topic = need(options, "in");
        long records = Long.parseLong(need(options, "records"));
        long keys = Long.parseLong(need(options, "keys"));
        int size = lines ? 0 : Integer.parseInt(need(options, "value-size"));
        int partitions = lines ? Integer.parseInt(need(options, "partitions")) : 0;
        double rate = Double.parseDouble(options.getOrDefault("rate", "1e12"));
        boolean zipf = options.getOrDefault("draw", "turns").equals("zipf");
        Properties config = new Properties();
        config.put("bootstrap.servers", need(options, "bootstrap"));
        config.put("batch.size", 256 * 1024);
        config.put("linger.ms", 20);
        config.put("buffer.memory", 64 * 1024 * 1024);
        var failure = new AtomicReference<Exception>();
        long began = System.nanoTime();
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (long i = 0; i < records; i++) {
                long early = (long) (i / rate * 1000) - (System.nanoTime() - began) / 1_000_000;
                if (early > 0) Thread.sleep(early);
                ProducerRecord<byte[], byte[]> record;
                if (lines) {
                    record = new ProducerRecord<>(topic, (int) (i % partitions), null, line(i, keys));
                } else {
                    ByteBuffer value = ByteBuffer.allocate(size + 8);
                    for (long z = i; value.position() < size; z++) value.putLong(mix(z * 31 + value.position()));
                    byte[] key = ByteBuffer.allocate(8).putLong(zipf ? mix(rank(i, keys)) : i % keys).array();
                    record = new ProducerRecord<>(topic, key, Arrays.copyOf(value.array(), size));
                }
                producer.send(record, (at, thrown) -> {
                    if (thrown != null) failure.set(thrown);
                });
            }
        }
        if (failure.get() != null) throw failure.get();
        System.out.printf("{\"made\":%d}%n", records);
    }

    /** The n-th draw out of so many: rank r about 1/r as often as the first. */
    private static long rank(long n, long many) {
        double chance = (mix(n) >>> 11) * 0x1p-53;
        return (long) Math.pow(many, chance) - 1;
    }

    /** Words as often as in natural text. */
    private static byte[] line(long i, long words) {
        ByteBuffer line = ByteBuffer.allocate(WORDS * 16);
        for (int at = 0; at < WORDS; at++) {
            long rank = rank(i * WORDS + at, words);
            if (at > 0) line.put((byte) ' ');
            // Four letters tell words apart; the rest gives them the lengths 4 to 9.
            long letters = rank;
            for (int n = Math.max(4, 3 + (int) (rank % 7)), letter = 0; letter < n; letter++) {
                if (letter == 4) letters = mix(rank) >>> 1;
                line.put((byte) ('a' + letters % 26));
                letters /= 26;
            }
        }
        return Arrays.copyOf(line.array(), line.position());
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
        Map<ByteBuffer, Long> last = new HashMap<>();
        boolean table = !work.equals("filter-map") && !work.equals("copy");
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Set<TopicPartition> partitions = consumer.partitionsFor(need(options, "out")).stream()
                .map(info -> new TopicPartition(info.topic(), info.partition())).collect(Collectors.toSet());
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            var ends = consumer.endOffsets(partitions);
            while (partitions.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    records++;
                    if (table) {
                        last.put(ByteBuffer.wrap(record.key()), ByteBuffer.wrap(record.value()).getLong());
                    } else {
                        // A sum of hashes: the same for the same records in any order.
                        checksum += mix(31L * Arrays.hashCode(record.key()) + Arrays.hashCode(record.value()));
                    }
                }
            }
        }
        long sum = last.values().stream().mapToLong(Long::longValue).sum();
        for (var row : last.entrySet()) checksum += mix(31L * row.getKey().hashCode() + row.getValue());
        if (table) System.out.printf("{\"records\":%d,\"keys\":%d,\"sum\":%d,\"checksum\":\"%016x\"}%n", records, last.size(), sum, checksum);
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
