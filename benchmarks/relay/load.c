/*
 * Load generator for a pair of datagram relays. One process holds both ends: the near end, connected
 * to the pair's entry, and the far end, to which the pair delivers. The caller makes both sockets.
 *
 *   load flood NEAR FAR [--size N | --mixed] [--both] [--gso] [--gro] [--seconds S] [--pid P]...
 *   load ping  NEAR FAR [--size N] [--count N] [--gap MICROSECONDS]
 *
 * prints one JSON object.
 *
 * A source that sends as fast as it can overruns any relay. The relay then loses datagrams in the
 * buffer of its UDP socket, and the figure measures these losses instead of the relay's capacity.
 * WireGuard's traffic is mostly TCP, which has a window. The load generator therefore limits the
 * bytes in transit. A warm-up doubles this window until datagrams are lost, and selects the window
 * with the highest rate. The output has the losses after the warm-up, and this process's share of a
 * processor: near 1, the load generator was the bottleneck, not the pair.
 *
 * A single thread costs the least next to relays on the same processors.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

enum {
    BATCH = 64,            /* datagrams per sendmmsg or recvmmsg */
    LONGEST = 65507,       /* bytes of the longest UDP datagram over IPv4 */
    SIZES = 4096,          /* number of mixed sizes before they repeat */
    SMALLEST_MIXED = 16,
    LARGEST_MIXED = 1420,
    BUFFER = 32 << 20,     /* bytes of a receive buffer: large enough to lose no datagram */
    SEEN = 1 << 20,        /* datagrams within which a duplicate is recognized */
    PIDS = 8,
};

/* The windows to try, in bytes. A GSO message needs 64 KiB. */
static const uint64_t FIRST_WINDOW = 8 << 10, FIRST_GSO_WINDOW = 64 << 10, LAST_WINDOW = 2 << 20;
static const double STEP = 0.1;    /* seconds per window */
static const double SILENCE = 0.1; /* seconds after which datagrams in transit count as lost */

/* The first bytes of each datagram. Its last byte, if longer, is the low byte of its number. */
struct header {
    uint64_t number;
    uint64_t before; /* bytes sent before it: the next datagram shows how many bytes are missing */
};

/* One direction. */
struct flow {
    int out, in;
    uint64_t sent, sent_bytes;
    uint64_t got, got_bytes;
    uint64_t expected;  /* the number after the highest received */
    uint64_t accounted; /* bytes that have arrived or are lost */
    uint64_t reordered, duplicates, damaged;
    uint8_t *seen; /* one bit for each of the last SEEN numbers */
};

static struct {
    size_t size; /* bytes of a datagram; 0: mixed */
    bool both, gso, gro;
    double seconds;
    unsigned long count, gap;
    int pids[PIDS], n_pids;
} options = {.size = 1420, .seconds = 2, .count = 2000};

static uint16_t mixed[SIZES];
static uint8_t *outgoing, *incoming;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t size_of(uint64_t number)
{
    return options.size ? options.size : mixed[number % SIZES];
}

/* -- sending ------------------------------------------------------------------------------------------ */

static void write_datagram(uint8_t *at, size_t size, uint64_t number, uint64_t before)
{
    struct header header = {number, before};
    memcpy(at, &header, sizeof header);
    if (size > sizeof header)
        at[size - 1] = (uint8_t)number;
}

/* Send one GSO message, which the kernel or the receiver splits. */
static bool send_segments(struct flow *flow, uint64_t room)
{
    size_t size = options.size, segments = LONGEST / size < BATCH ? LONGEST / size : BATCH;
    if (room < segments * size)
        return false;
    for (size_t i = 0; i < segments; i++)
        write_datagram(outgoing + i * size, size, flow->sent + i, flow->sent_bytes + i * size);
    union {
        char space[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control = {0};
    struct iovec vector = {outgoing, segments * size};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    uint16_t segment = (uint16_t)size;
    c->cmsg_level = IPPROTO_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(sizeof segment);
    memcpy(CMSG_DATA(c), &segment, sizeof segment);
    if (sendmsg(flow->out, &message, MSG_DONTWAIT) < 0) {
        if (errno == EAGAIN || errno == ECONNREFUSED || errno == ENOBUFS)
            return false;
        die("sendmsg");
    }
    flow->sent += segments, flow->sent_bytes += segments * size;
    return true;
}

static bool send_batch(struct flow *flow, uint64_t room)
{
    struct mmsghdr messages[BATCH] = {0};
    struct iovec vectors[BATCH];
    size_t n = 0, used = 0;
    for (size_t size; n < BATCH && used + (size = size_of(flow->sent + n)) <= room; n++) {
        write_datagram(outgoing + used, size, flow->sent + n, flow->sent_bytes + used);
        vectors[n] = (struct iovec){outgoing + used, size};
        messages[n].msg_hdr.msg_iov = &vectors[n], messages[n].msg_hdr.msg_iovlen = 1;
        used += size;
    }
    int done = n ? sendmmsg(flow->out, messages, (unsigned)n, MSG_DONTWAIT) : 0;
    if (done < 0 && errno != EAGAIN && errno != ECONNREFUSED && errno != ENOBUFS)
        die("sendmmsg");
    for (int i = 0; i < done; i++)
        flow->sent++, flow->sent_bytes += vectors[i].iov_len;
    return done > 0;
}

static void fill(struct flow *flow, uint64_t window)
{
    for (;;) {
        uint64_t underway = flow->sent_bytes - flow->accounted;
        if (underway >= window || !(options.gso ? send_segments : send_batch)(flow, window - underway))
            return;
    }
}

/* -- receiving ---------------------------------------------------------------------------------------- */

static void take(struct flow *flow, const uint8_t *at, size_t size)
{
    struct header header;
    if (size < sizeof header) {
        flow->damaged++;
        return;
    }
    memcpy(&header, at, sizeof header);
    uint64_t number = header.number;
    if (number >= flow->sent || size != size_of(number) || (size > sizeof header && at[size - 1] != (uint8_t)number)) {
        flow->damaged++;
        return;
    }
    uint8_t *seen = &flow->seen[number % SEEN / 8], bit = (uint8_t)(1 << number % 8);
    if (number < flow->expected) {
        if (number + SEEN <= flow->expected || *seen & bit) {
            flow->duplicates++;
            return;
        }
        flow->reordered++;
    } else {
        for (uint64_t i = flow->expected; i < number; i++) /* not received yet */
            flow->seen[i % SEEN / 8] &= (uint8_t)~(1 << i % 8);
        flow->expected = number + 1;
        flow->accounted = header.before + size;
    }
    *seen |= bit;
    flow->got++, flow->got_bytes += size;
}

static bool receive(struct flow *flow)
{
    static struct {
        char space[CMSG_SPACE(sizeof(int))];
    } __attribute__((aligned(8))) controls[BATCH];
    struct mmsghdr messages[BATCH] = {0};
    struct iovec vectors[BATCH];
    /* Coalesced datagrams need large slots, but fewer of them per batch. */
    size_t slot = options.gro ? 1 << 16 : options.size > 2048 ? options.size : 2048, n = options.gro ? BATCH / 8 : BATCH;
    for (size_t i = 0; i < n; i++) {
        vectors[i] = (struct iovec){incoming + i * slot, slot};
        messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_control = &controls[i], .msg_controllen = sizeof controls[i]};
    }
    int done = recvmmsg(flow->in, messages, (unsigned)n, MSG_DONTWAIT, NULL);
    for (int i = 0; i < done; i++) {
        size_t length = messages[i].msg_len, segment = length;
        struct cmsghdr *c = CMSG_FIRSTHDR(&messages[i].msg_hdr);
        if (c && c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
            int value;
            memcpy(&value, CMSG_DATA(c), sizeof value);
            segment = (size_t)value;
        }
        for (size_t at = 0; at < length; at += segment)
            take(flow, incoming + (size_t)i * slot + at, length - at < segment ? length - at : segment);
    }
    return done > 0;
}

/* -- the run ------------------------------------------------------------------------------------------ */

/* Send and receive until `end`. With a window of 0, only receive, until no datagram arrives. */
static void run(struct flow *flows, int n, uint64_t window, double end)
{
    for (double t, heard = now(); (t = now()) < end;) {
        bool progress = false;
        for (int i = 0; i < n; i++) {
            fill(&flows[i], window);
            progress |= receive(&flows[i]);
        }
        if (progress) {
            heard = t;
            continue;
        }
        if (t - heard > SILENCE) {
            if (!window)
                return;
            for (int i = 0; i < n; i++)
                flows[i].accounted = flows[i].sent_bytes;
            heard = t;
        }
        struct pollfd waiting[2];
        for (int i = 0; i < n; i++)
            waiting[i] = (struct pollfd){flows[i].in, POLLIN, 0};
        poll(waiting, (nfds_t)n, 20);
    }
}

struct totals {
    uint64_t got, bytes, lost, reordered, duplicates, damaged;
};

static struct totals sum(const struct flow *flows, int n)
{
    struct totals all = {0};
    for (int i = 0; i < n; i++) {
        all.got += flows[i].got, all.bytes += flows[i].got_bytes;
        all.lost += flows[i].expected - flows[i].got;
        all.reordered += flows[i].reordered, all.duplicates += flows[i].duplicates, all.damaged += flows[i].damaged;
    }
    return all;
}

static uint64_t best_window(struct flow *flows, int n)
{
    uint64_t first = options.gso ? FIRST_GSO_WINDOW : FIRST_WINDOW, best = first, most = 0;
    for (uint64_t window = first; window <= LAST_WINDOW; window *= 2) {
        struct totals before = sum(flows, n), after;
        run(flows, n, window, now() + STEP);
        after = sum(flows, n);
        if (after.lost > before.lost)
            break;
        if (after.bytes - before.bytes > most)
            most = after.bytes - before.bytes, best = window;
    }
    return best;
}

/* Return the processor seconds of the processes so far, with all their threads. */
static double cpu_of_pids(void)
{
    unsigned long user, system;
    double ticks = 0;
    for (int i = 0; i < options.n_pids; i++) {
        char path[64], line[1024];
        snprintf(path, sizeof path, "/proc/%d/stat", options.pids[i]);
        FILE *file = fopen(path, "r");
        if (!file || !fgets(line, sizeof line, file))
            die(path);
        fclose(file);
        /* The second field, in parentheses, may have any text; we need the 14th and 15th. */
        if (sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
            die(path);
        ticks += (double)(user + system);
    }
    return ticks / (double)sysconf(_SC_CLK_TCK);
}

static double own_cpu(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + 1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* Send until a datagram arrives at the far end, then connect the far end to its source. */
static void open_path(int near, int far)
{
    char knock[1] = {0};
    struct sockaddr_storage from;
    struct pollfd waiting = {far, POLLIN, 0};
    for (double end = now() + 10; now() < end;) {
        if (send(near, knock, sizeof knock, 0) < 0 && errno != ECONNREFUSED)
            die("send");
        while (poll(&waiting, 1, 200) > 0) {
            socklen_t length = sizeof from;
            if (recvfrom(far, knock, sizeof knock, 0, (struct sockaddr *)&from, &length) < 0)
                continue;
            if (connect(far, (struct sockaddr *)&from, length))
                die("connect");
            while (poll(&waiting, 1, 50) > 0) /* later ones of these datagrams */
                if (recv(far, knock, sizeof knock, MSG_DONTWAIT) < 0 && errno != EAGAIN && errno != ECONNREFUSED)
                    die("recv");
            return;
        }
    }
    fprintf(stderr, "nothing arrives at the far end\n");
    exit(1);
}

static void set(int fd, int level, int name, int value, bool required)
{
    if (setsockopt(fd, level, name, &value, sizeof value) && required)
        die("setsockopt");
}

static void flood(int near, int far)
{
    int n = options.both ? 2 : 1;
    struct flow flows[2] = {{.out = near, .in = far}, {.out = far, .in = near}};
    for (int i = 0; i < 2; i++) {
        flows[i].seen = calloc(1, SEEN / 8);
        set(flows[i].in, SOL_SOCKET, SO_RCVBUF, BUFFER, true);
        set(flows[i].in, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER, false);
        set(flows[i].in, IPPROTO_UDP, UDP_GRO, options.gro, options.gro);
    }
    uint64_t window = best_window(flows, n);
    run(flows, n, 0, now() + 1); /* so that losses of the warm-up do not count */

    struct totals before = sum(flows, n);
    double cpu = cpu_of_pids(), own = own_cpu(), started = now();
    run(flows, n, window, started + options.seconds);
    double seconds = now() - started;
    struct totals after = sum(flows, n);
    cpu = cpu_of_pids() - cpu, own = own_cpu() - own;
    double bytes = (double)(after.bytes - before.bytes);

    run(flows, n, 0, now() + 1); /* datagrams in transit are not lost */
    after = sum(flows, n);
    for (int i = 0; i < n; i++)
        after.lost += flows[i].sent - flows[i].expected;
    printf("{\"mbit_s\": %.1f, \"cpu_s_per_gb\": %.3f, \"datagrams\": %lu, \"lost\": %ld, \"reordered\": %lu, "
           "\"duplicates\": %lu, \"damaged\": %lu, \"window_kib\": %lu, \"load_cpu\": %.2f}\n",
           bytes * 8e-6 / seconds, bytes ? cpu / (bytes * 1e-9) : 0, after.got - before.got, (long)(after.lost - before.lost),
           after.reordered - before.reordered, after.duplicates - before.duplicates, after.damaged - before.damaged,
           window >> 10, own / seconds);
}

/* -- single datagrams --------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Wait for the datagram; return false if it does not arrive within a second. */
static bool hear(int fd, uint64_t number)
{
    struct header header;
    for (;;) {
        ssize_t length = recv(fd, incoming, 1 << 16, 0);
        if (length < 0 && errno == EAGAIN)
            return false;
        if (length < (ssize_t)sizeof header)
            continue;
        memcpy(&header, incoming, sizeof header);
        if (header.number == number)
            return true;
    }
}

static void ping(int near, int far)
{
    struct timeval patience = {1, 0};
    struct timespec gap = {(time_t)(options.gap / 1000000), (long)(options.gap % 1000000) * 1000};
    double *taken = malloc(options.count * sizeof *taken);
    unsigned long n = 0, warm_up = options.count / 20;
    for (int i = 0; i < 2; i++)
        if (setsockopt(i ? near : far, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience))
            die("setsockopt");
    for (unsigned long number = 0; number < options.count + warm_up; number++) {
        if (options.gap)
            nanosleep(&gap, NULL);
        double started = now();
        write_datagram(outgoing, options.size, number, 0);
        if (send(near, outgoing, options.size, 0) < 0)
            die("send");
        if (!hear(far, number))
            continue;
        if (send(far, outgoing, options.size, 0) < 0)
            die("send");
        if (hear(near, number) && number >= warm_up)
            taken[n++] = now() - started;
    }
    if (!n) {
        fprintf(stderr, "no datagram came back\n");
        exit(1);
    }
    qsort(taken, n, sizeof *taken, ascending);
    printf("{\"n\": %lu, \"lost\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", n, options.count - n, taken[n / 2] * 1e6,
           taken[n * 99 / 100] * 1e6);
}

int main(int argc, char **argv)
{
    for (int i = 4; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(name, "--both"))
            options.both = true;
        else if (!strcmp(name, "--gso"))
            options.gso = true;
        else if (!strcmp(name, "--gro"))
            options.gro = true;
        else if (!strcmp(name, "--mixed"))
            options.size = 0;
        else if (i++, !strcmp(name, "--size"))
            options.size = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--seconds"))
            options.seconds = strtod(value, NULL);
        else if (!strcmp(name, "--count"))
            options.count = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--gap"))
            options.gap = strtoul(value, NULL, 10);
        else if (!strcmp(name, "--pid") && options.n_pids < PIDS)
            options.pids[options.n_pids++] = atoi(value);
        else
            argc = 0;
    }
    bool sized = options.size >= sizeof(struct header) && options.size <= LONGEST;
    if (argc < 4 || !(sized || (!options.size && !options.gso)) || !options.count) {
        fprintf(stderr, "invalid arguments; the first comment of load.c has the usage\n");
        return 2;
    }
    uint64_t random = 88172645463325252; /* xorshift64, Marsaglia 2003: the same sizes in each run */
    for (int i = 0; i < SIZES; i++) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        mixed[i] = (uint16_t)(SMALLEST_MIXED + random % (LARGEST_MIXED - SMALLEST_MIXED + 1));
    }
    outgoing = calloc(BATCH, 1 << 16), incoming = calloc(BATCH, 1 << 16);
    int near = atoi(argv[2]), far = atoi(argv[3]);
    open_path(near, far);
    (strcmp(argv[1], "ping") ? flood : ping)(near, far);
    return 0;
}
