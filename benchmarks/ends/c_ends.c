/* Ends in C for zmq_proxy, so that they cost little and the proxy is what is measured.
 *
 *     c_ends worker OPTIONS     answers each message with itself
 *     c_ends client OPTIONS     obeys orders
 *
 * end.py tells how it talks with the benchmark: in lines of JSON, of which the fields are found by name.  A request is
 * one frame that begins with when it was sent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { MAX_FRAMES = 4, MAX_LATENCIES = 4000000, MAX_SIZE = 1 << 20 };

static void *context;
static zmq_pollitem_t *peers;
static int count;
static double *latencies;
static char payload[MAX_SIZE];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *dial(const char *endpoint) {
    int linger = 0;
    void *socket = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    if (zmq_connect(socket, endpoint)) {
        perror(endpoint);
        exit(1);
    }
    return socket;
}

static void say(const char *line) {
    puts(line);
    fflush(stdout);
}

/* Send back whatever has come to one socket. */
static void answer(void *socket) {
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    while (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) >= 0)
        zmq_msg_send(&frame, socket, zmq_msg_more(&frame) ? ZMQ_SNDMORE : 0);
    zmq_msg_close(&frame);
}

static void work(void) {
    peers[count].fd = STDIN_FILENO;
    peers[count].events = ZMQ_POLLIN;
    while (!(peers[count].revents & (ZMQ_POLLIN | ZMQ_POLLERR))) {
        zmq_poll(peers, count + 1, -1);
        for (int i = 0; i < count; i++)
            if (peers[i].revents & ZMQ_POLLIN)
                answer(peers[i].socket);
    }
}

static void ask(void *socket, size_t size) {
    double sent = now();
    memcpy(payload, &sent, sizeof sent);
    zmq_send(socket, payload, size, 0);
}

/* Take one reply; return whether there was one. */
static int take(void *socket, int *answered) {
    zmq_msg_t frame;
    double sent;
    zmq_msg_init(&frame);
    int taken = zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) >= 0;
    if (taken) {
        memcpy(&sent, zmq_msg_data(&frame), sizeof sent);
        if (*answered < MAX_LATENCIES)
            latencies[*answered] = now() - sent;
        ++*answered;
    }
    zmq_msg_close(&frame);
    return taken;
}

static int compare(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0 ? -1 : difference > 0;
}

static void request(double seconds, int in_flight, size_t size) {
    double begun = now(), end = begun + seconds;
    int asked = in_flight, answered = 0;
    for (int i = 0; i < in_flight; i++)
        ask(peers[i % count].socket, size);
    while (answered < asked) {
        zmq_poll(peers, count, -1);
        for (int i = 0; i < count; i++)
            while (peers[i].revents & ZMQ_POLLIN && take(peers[i].socket, &answered))
                if (now() < end) {
                    asked++;
                    ask(peers[i].socket, size);
                }
    }
    double took = now() - begun;
    int kept = answered < MAX_LATENCIES ? answered : MAX_LATENCIES;
    qsort(latencies, kept, sizeof *latencies, compare);
    printf("{\"count\": %d, \"seconds\": %f, \"per_second\": %f, \"p50_us\": %f, \"p99_us\": %f}\n", answered, took,
           answered / took, latencies[kept / 2] * 1e6, latencies[(int)(kept * 0.99)] * 1e6);
    fflush(stdout);
}

/* Return where the value of a field begins. */
static const char *field(const char *json, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *found = strstr(json, key);
    if (!found) {
        fprintf(stderr, "no %s in %s\n", name, json);
        exit(1);
    }
    return found + strlen(key);
}

static double number(const char *json, const char *name) {
    return atof(field(json, name));
}

static char *text(const char *json, const char *name) {
    const char *begin = field(json, name) + 1;
    return strndup(begin, strcspn(begin, "\""));
}

static void obey(void) {
    char order[1000];
    latencies = calloc(MAX_LATENCIES, sizeof *latencies);
    while (fgets(order, sizeof order, stdin)) {
        size_t size = number(order, "size");
        if (size < sizeof(double) || size > MAX_SIZE) {
            fprintf(stderr, "no room for %zu bytes\n", size);
            exit(1);
        }
        request(number(order, "seconds"), number(order, "in_flight"), size);
    }
}

int main(int argc, char **argv) {
    if (argc != 3 || (strcmp(argv[1], "worker") && strcmp(argv[1], "client"))) {
        fprintf(stderr, "c_ends worker|client OPTIONS\n");
        return 2;
    }
    int works = argv[1][0] == 'w';
    const char *options = argv[2], *address = text(options, works ? "back" : "address");
    count = number(options, works ? "workers" : "clients");
    context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 4096);
    peers = calloc(count + 1, sizeof *peers);
    for (int i = 0; i < count; i++) {
        peers[i].socket = dial(address);
        peers[i].events = ZMQ_POLLIN;
    }
    say("{}");
    if (works)
        work();
    else
        obey();
    _exit(0); /* without waiting for libzmq's threads */
}
