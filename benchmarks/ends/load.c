/* Clients and workers in C, so that they cost little and whatever stands between them is what is measured.
 *
 *     load mdp   ENDPOINT    WORKERS CLIENTS REQUESTS     MDP 0.2 through a broker
 *     load plain FRONT BACK  WORKERS CLIENTS REQUESTS     the same frames through a proxy that routes nothing
 *
 * Each client has one request of 16 bytes outstanding.  All workers share a thread, and so do all clients.
 * Prints one line of JSON: requests a second, and latency percentiles in microseconds.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { MAX_FRAMES = 16, STALL_SECONDS = 5 };

static void *context;
static int mdp, workers, clients, requests;
static const char *front, *back;
static volatile int stopped;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *dial(const char *endpoint) {
    int linger = 0;
    void *socket = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_connect(socket, endpoint);
    return socket;
}

static void send_frame(void *socket, const void *data, size_t size, int more) {
    zmq_send(socket, data, size, more ? ZMQ_SNDMORE : 0);
}

/* Receive a whole message; return the number of its frames, 0 if there is none. */
static int receive(void *socket, zmq_msg_t *frames) {
    int count = 0, more = 1;
    while (more && count < MAX_FRAMES) {
        zmq_msg_init(&frames[count]);
        if (zmq_msg_recv(&frames[count], socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&frames[count]);
            break;
        }
        more = zmq_msg_more(&frames[count++]);
    }
    return count;
}

static void close_frames(zmq_msg_t *frames, int count) {
    for (int i = 0; i < count; i++)
        zmq_msg_close(&frames[i]);
}

static void forward(void *socket, zmq_msg_t *frame, int more) {
    send_frame(socket, zmq_msg_data(frame), zmq_msg_size(frame), more);
}

static void send_header(void *socket, const char *header, char command, int more) {
    send_frame(socket, header, 6, 1);
    send_frame(socket, &command, 1, more);
}

/* Answer one message: MDP's REQUEST with its FINAL, anything else of MDP's with nothing; a plain message with itself. */
static void answer(void *socket, zmq_msg_t *frames, int count) {
    if (!mdp) {
        for (int i = 0; i < count; i++)
            forward(socket, &frames[i], i < count - 1);
    } else if (count >= 5 && *(char *)zmq_msg_data(&frames[1]) == 2) {
        send_header(socket, "MDPW02", 4, 1);
        forward(socket, &frames[2], 1);
        send_frame(socket, "", 0, 1);
        forward(socket, &frames[count - 1], 0);
    }
}

static void *work(void *unused) {
    zmq_pollitem_t *items = calloc(workers, sizeof *items);
    zmq_msg_t frames[MAX_FRAMES];
    double beaten = now();
    int count;
    for (int i = 0; i < workers; i++) {
        items[i].socket = dial(back);
        items[i].events = ZMQ_POLLIN;
        if (mdp) {
            send_header(items[i].socket, "MDPW02", 1, 1);
            send_frame(items[i].socket, "echo", 4, 0);
        }
    }
    while (!stopped) {
        zmq_poll(items, workers, 100);
        int beat = mdp && now() - beaten > 1;
        if (beat)
            beaten = now();
        for (int i = 0; i < workers; i++) {
            if (items[i].revents & ZMQ_POLLIN)
                while ((count = receive(items[i].socket, frames)) > 0) {
                    answer(items[i].socket, frames, count);
                    close_frames(frames, count);
                }
            if (beat)
                send_header(items[i].socket, "MDPW02", 5, 0);
        }
    }
    for (int i = 0; i < workers; i++)
        zmq_close(items[i].socket);
    return unused;
}

static void ask(void *socket) {
    send_header(socket, "MDPC02", 1, 1);
    send_frame(socket, "echo", 4, 1);
    send_frame(socket, "xxxxxxxxxxxxxxxx", 16, 0);
}

static int is_final(zmq_msg_t *frames, int count) {
    return !mdp || (count > 1 && *(char *)zmq_msg_data(&frames[1]) == 3);
}

static int compare(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0 ? -1 : difference > 0;
}

int main(int argc, char **argv) {
    mdp = argc == 6 && !strcmp(argv[1], "mdp");
    if (!mdp && !(argc == 7 && !strcmp(argv[1], "plain"))) {
        fprintf(stderr, "load mdp ENDPOINT | plain FRONT BACK, then WORKERS CLIENTS REQUESTS\n");
        return 2;
    }
    front = argv[2];
    back = mdp ? front : argv[3];
    char **numbers = argv + (mdp ? 3 : 4);
    workers = atoi(numbers[0]), clients = atoi(numbers[1]), requests = atoi(numbers[2]);
    context = zmq_ctx_new();
    zmq_ctx_set(context, ZMQ_MAX_SOCKETS, 4096);
    pthread_t thread;
    pthread_create(&thread, NULL, work, NULL);
    usleep(800000);

    zmq_pollitem_t *items = calloc(clients, sizeof *items);
    double *asked = calloc(clients, sizeof *asked), *latencies = calloc(requests, sizeof *latencies);
    for (int i = 0; i < clients; i++) {
        items[i].socket = dial(front);
        items[i].events = ZMQ_POLLIN;
    }
    usleep(300000);
    zmq_msg_t frames[MAX_FRAMES];
    int sent = 0, done = 0, count;
    double begun = now(), last = begun;
    for (int i = 0; i < clients && sent < requests; i++, sent++) {
        asked[i] = now();
        ask(items[i].socket);
    }
    while (done < requests && now() - last < STALL_SECONDS) {
        zmq_poll(items, clients, 1000);
        for (int i = 0; i < clients; i++) {
            while (items[i].revents & ZMQ_POLLIN && (count = receive(items[i].socket, frames)) > 0) {
                int final = is_final(frames, count);
                close_frames(frames, count);
                if (!final || done == requests)
                    continue;
                last = now();
                latencies[done++] = last - asked[i];
                if (sent < requests) {
                    sent++;
                    asked[i] = now();
                    ask(items[i].socket);
                }
            }
        }
    }
    double took = last - begun;
    qsort(latencies, done, sizeof *latencies, compare);
    printf("{\"requests\": %d, \"per_second\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f}\n", done, done / took,
           done ? latencies[done / 2] * 1e6 : 0, done ? latencies[(int)(done * 0.99)] * 1e6 : 0);
    fflush(stdout);
    stopped = 1;
    pthread_join(thread, NULL);
    _exit(done == requests ? 0 : 1); /* without waiting for libzmq's threads */
}
