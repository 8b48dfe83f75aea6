/* Joins two TUN devices by a link: delay, random loss, a rate with a drop-tail queue, each way.
 *
 *     link_emulator DEVICE DEVICE DELAY_US LOSS_PERCENT RATE_MBIT QUEUE_BYTES
 *
 * Prints "up" when it carries packets, and until SIGTERM does nothing else. For kernels without netem.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { PACKETS = 65536, PACKET_BYTES = 1600, READS = 64 };

typedef struct {
    int64_t due_ns;
    int size;
    unsigned char bytes[PACKET_BYTES];
} packet;

typedef struct {
    packet *ring;
    unsigned head, tail; /* of what waits, modulo PACKETS */
    int64_t free_ns;     /* when the line has sent all that waits */
} direction;

static int device[2];
static direction way[2];
static int64_t delay_ns;
static uint64_t loss_below;
static double bytes_per_ns;
static double queue_ns;
static volatile sig_atomic_t stopped;

static void stop(int number) { (void)number; stopped = 1; }

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static uint64_t draw(void) { /* xorshift */
    static uint64_t state = 88172645463325252ULL;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static int open_device(const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request)) {
        perror(name);
        exit(1);
    }
    return fd;
}

/* Hand over what is due; when the next will be. */
static int64_t deliver(int64_t now, int64_t next) {
    for (int side = 0; side < 2; side++) {
        direction *one = &way[side];
        for (; one->head != one->tail; one->head++) {
            packet *first = &one->ring[one->head % PACKETS];
            if (first->due_ns > now) {
                next = first->due_ns < next ? first->due_ns : next;
                break;
            }
            if (write(device[1 - side], first->bytes, first->size) < 0) continue; /* its receiver is full: lost */
        }
    }
    return next;
}

static void take_in(int side) {
    direction *one = &way[side];
    for (int count = 0; count < READS; count++) {
        packet *next = &one->ring[one->tail % PACKETS];
        int size = read(device[side], next->bytes, PACKET_BYTES);
        if (size <= 0) return;
        int64_t now = now_ns(), start = one->free_ns > now ? one->free_ns : now;
        if (one->tail - one->head >= PACKETS - 1 || draw() < loss_below || start - now > queue_ns) continue;
        one->free_ns = start + (int64_t)(size / bytes_per_ns);
        next->due_ns = one->free_ns + delay_ns;
        next->size = size;
        one->tail++;
    }
}

int main(int count, char **word) {
    if (count != 7) return 2;
    delay_ns = atoll(word[3]) * 1000;
    loss_below = (uint64_t)(atof(word[4]) / 100 * 18446744073709551615.0);
    bytes_per_ns = atof(word[5]) * 1e6 / 8 / 1e9;
    queue_ns = atof(word[6]) / bytes_per_ns;
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    int poll = epoll_create1(0);
    for (int side = 0; side < 2; side++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = side};
        device[side] = open_device(word[1 + side]);
        way[side].ring = malloc(sizeof(packet) * (size_t)PACKETS);
        epoll_ctl(poll, EPOLL_CTL_ADD, device[side], &event);
    }
    puts("up");
    fflush(stdout);
    while (!stopped) {
        struct epoll_event events[2];
        int64_t now = now_ns(), wait = deliver(now, now + 100000000) - now_ns();
        struct timespec most = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
        int ready = epoll_pwait2(poll, events, 2, &most, NULL);
        for (int at = 0; at < ready; at++) take_in(events[at].data.u32);
    }
    return 0;
}
