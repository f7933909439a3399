import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

/**
 * Kafka Streams as a client of a broker under test: counts the values of a topic, through a repartition topic, without
 * a record cache, so that every count that a word goes through is a record of the output.
 *
 * <pre>
 * streams --bootstrap B --app ID --input T --output T --state D [--set k=v]...
 *     stdout: a line for each state it comes to; ends in good order when stdin does
 * </pre>
 */
final class StreamsCount {
    private StreamsCount() {}

    static void run(Map<String, List<String>> options) throws Exception {
        var builder = new StreamsBuilder();
        var store = Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts"));
        builder.stream(one(options, "input"), Consumed.with(Serdes.String(), Serdes.String()))
            .groupBy((key, word) -> word, Grouped.with("by-word", Serdes.String(), Serdes.String()))
            .count(store.withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .to(one(options, "output"), Produced.with(Serdes.String(), Serdes.Long()));

        var config = new Properties();
        config.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, one(options, "bootstrap"));
        config.put(StreamsConfig.APPLICATION_ID_CONFIG, one(options, "app"));
        config.put(StreamsConfig.STATE_DIR_CONFIG, one(options, "state"));
        config.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, "0");
        for (String set : options.getOrDefault("set", List.of())) {
            String[] pair = set.split("=", 2);
            config.put(pair[0], pair[1]);
        }
        var streams = new KafkaStreams(builder.build(), config);
        streams.setStateListener((now, before) -> {
            System.out.println(now);
            System.out.flush();
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        streams.start();
        while (System.in.read() >= 0) {}
        if (!streams.close(Duration.ofSeconds(20))) throw new IllegalStateException("it does not close");
    }

    private static String one(Map<String, List<String>> options, String name) {
        return options.get(name).get(0);
    }
}
