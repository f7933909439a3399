import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The Java client on a command line: one JSON object a line, bytes in hexadecimal, null for absent.
 *
 * <pre>
 * produce --bootstrap B [--compression none|gzip|snappy|lz4|zstd] [--transactional-id T [--abort|--leave-open]] [--set k=v]...
 *     stdin:  {"topic":"t","partition":0|null,"key":"6b"|null,"value":"76"|null,"ts":1|null,"headers":[["h","01"|null],...]}
 *     stdout: {"topic":"t","partition":0,"offset":0,"ts":1} for each, once all are acknowledged (and committed or aborted)
 *     --leave-open ends the process as a kill does, in the middle of the transaction
 * consume --bootstrap B --topic T [--topic T]... [--isolation read_committed|read_uncommitted] [--set k=v]...
 *     stdout: each record from the beginning to the end as it was at the start, topic by topic and partition by
 *             partition, in produce's
 *             shape with "offset" and "ts_type"
 * partition N
 *     stdin: a key in hexadecimal a line; stdout: its partition of N by the default partitioner
 * streams
 *     see StreamsCount
 * </pre>
 */
public final class JavaClient {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        if (args.length == 0) throw usage("no command");
        switch (args[0]) {
            case "produce" -> produce(options(args));
            case "consume" -> consume(options(args));
            case "partition" -> partition(Integer.parseInt(args[1]));
            case "streams" -> StreamsCount.run(options(args));
            default -> throw usage("unknown command " + args[0]);
        }
        OUT.flush();
    }

    private static void produce(Map<String, List<String>> options) throws Exception {
        Properties config = config(options);
        config.put("compression.type", one(options, "compression", "none"));
        String transaction = one(options, "transactional-id", null);
        if (transaction != null) config.put("transactional.id", transaction);
        try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            if (transaction != null) {
                producer.initTransactions();
                producer.beginTransaction();
            }
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (String line : lines()) {
                JsonNode json = JSON.readTree(line);
                var headers = new RecordHeaders();
                for (JsonNode header : json.path("headers")) headers.add(header.get(0).asText(), bytes(header.get(1)));
                sent.add(producer.send(new ProducerRecord<>(
                    json.get("topic").asText(),
                    json.hasNonNull("partition") ? json.get("partition").asInt() : null,
                    json.hasNonNull("ts") ? json.get("ts").asLong() : null,
                    bytes(json.get("key")),
                    bytes(json.get("value")),
                    headers)));
            }
            producer.flush();
            if (transaction != null && !options.containsKey("leave-open")) {
                if (options.containsKey("abort")) producer.abortTransaction();
                else producer.commitTransaction();
            }
            for (Future<RecordMetadata> one : sent) {
                RecordMetadata at = one.get();
                ObjectNode json = JSON.createObjectNode();
                json.put("topic", at.topic()).put("partition", at.partition()).put("offset", at.offset()).put("ts", at.timestamp());
                OUT.println(json);
            }
            if (options.containsKey("leave-open")) {
                OUT.flush();
                Runtime.getRuntime().halt(0);
            }
        }
    }

    private static void consume(Map<String, List<String>> options) {
        Properties config = config(options);
        config.put("isolation.level", one(options, "isolation", "read_committed"));
        config.put("enable.auto.commit", "false");
        config.putIfAbsent("auto.offset.reset", "none");
        List<String> topics = options.get("topic");
        if (topics == null) throw usage("consume needs --topic");
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (String topic : topics) {
                var infos = consumer.partitionsFor(topic);
                if (infos == null || infos.isEmpty()) throw new IllegalStateException("no topic " + topic);
                infos.stream().map(info -> info.partition()).sorted().forEach(at -> partitions.add(new TopicPartition(topic, at)));
            }
            // Under read_committed these are the last stable offsets.
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            for (TopicPartition partition : partitions) {
                consumer.assign(List.of(partition));
                consumer.seekToBeginning(List.of(partition));
                while (consumer.position(partition) < ends.get(partition)) {
                    for (var record : consumer.poll(Duration.ofMillis(500))) {
                        if (record.offset() < ends.get(partition)) print(record);
                    }
                }
            }
        }
    }

    private static void print(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode json = JSON.createObjectNode();
        json.put("topic", record.topic()).put("partition", record.partition()).put("offset", record.offset());
        json.put("key", hex(record.key())).put("value", hex(record.value()));
        json.put("ts", record.timestamp()).put("ts_type", record.timestampType().toString());
        ArrayNode headers = json.putArray("headers");
        for (Header header : record.headers()) headers.addArray().add(header.key()).add(hex(header.value()));
        OUT.println(json);
    }

    private static void partition(int partitions) throws Exception {
        for (String line : lines()) OUT.println(BuiltInPartitioner.partitionForKey(HexFormat.of().parseHex(line), partitions));
    }

    private static List<String> lines() throws Exception {
        return new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines().toList();
    }

    private static byte[] bytes(JsonNode hex) {
        return hex == null || hex.isNull() ? null : HexFormat.of().parseHex(hex.asText());
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? null : HexFormat.of().formatHex(bytes);
    }

    private static Properties config(Map<String, List<String>> options) {
        Properties config = new Properties();
        String bootstrap = one(options, "bootstrap", System.getenv("MAINSTEM_KAFKA"));
        if (bootstrap == null) throw usage("no --bootstrap, and MAINSTEM_KAFKA is not set");
        config.put("bootstrap.servers", bootstrap);
        for (String pair : options.getOrDefault("set", List.of())) {
            int at = pair.indexOf('=');
            config.put(pair.substring(0, at), pair.substring(at + 1));
        }
        return config;
    }

    private static String one(Map<String, List<String>> options, String name, String otherwise) {
        return options.containsKey(name) ? options.get(name).get(0) : otherwise;
    }

    private static Map<String, List<String>> options(String[] args) {
        Map<String, List<String>> options = new HashMap<>();
        for (int at = 1; at < args.length; at++) {
            if (!args[at].startsWith("--")) throw usage("unexpected argument " + args[at]);
            String name = args[at].substring(2);
            String value = name.equals("abort") || name.equals("leave-open") ? "" : ++at < args.length ? args[at] : null;
            if (value == null) throw usage("--" + name + " needs a value");
            options.computeIfAbsent(name, ignored -> new ArrayList<>()).add(value);
        }
        return options;
    }

    private static RuntimeException usage(String problem) {
        System.err.println("java-client: " + problem + " (commands: produce, consume, partition; see tests/java/JavaClient.java)");
        System.exit(2);
        return new IllegalStateException();
    }
}
