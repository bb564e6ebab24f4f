/* Memory read bandwidth: every thread sums a buffer of its own, all at once, again and again.

   read_bandwidth THREADS MEBIBYTES_PER_THREAD PASSES
   prints the name of the instructions used, then for each pass the bytes per second of all threads together.

   The widest loads that the compiler was told of are used (-march=native). The sums are printed to stderr, so that no
   compiler can leave the reading out. Compile with: cc -O3 -march=native -pthread read_bandwidth.c */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

enum { BLOCK = 512, MOST_THREADS = 256 }; /* bytes read per turn of the loop; every buffer is a multiple of it */

#if defined(__AVX512F__)
static const char *const instructions = "AVX-512";
static uint64_t sum_buffer(const unsigned char *data, size_t bytes) {
    __m512i sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_si512();
    for (size_t at = 0; at < bytes; at += BLOCK)
        for (int i = 0; i < 8; i++) sums[i] = _mm512_add_epi64(sums[i], _mm512_load_si512((const void *)(data + at + 64 * i)));
    uint64_t total = 0;
    for (int i = 0; i < 8; i++) total += (uint64_t)_mm512_reduce_add_epi64(sums[i]);
    return total;
}
#elif defined(__AVX2__)
static const char *const instructions = "AVX2";
static uint64_t sum_buffer(const unsigned char *data, size_t bytes) {
    __m256i sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < bytes; at += BLOCK / 2)
        for (int i = 0; i < 8; i++) sums[i] = _mm256_add_epi64(sums[i], _mm256_load_si256((const __m256i *)(data + at + 32 * i)));
    uint64_t total = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t lanes[4];
        memcpy(lanes, &sums[i], sizeof lanes);
        total += lanes[0] + lanes[1] + lanes[2] + lanes[3];
    }
    return total;
}
#else
static const char *const instructions = "scalar";
static uint64_t sum_buffer(const unsigned char *data, size_t bytes) {
    const uint64_t *words = (const uint64_t *)data;
    uint64_t sums[8] = {0};
    for (size_t at = 0; at < bytes / 8; at += 8)
        for (int i = 0; i < 8; i++) sums[i] += words[at + i];
    uint64_t total = 0;
    for (int i = 0; i < 8; i++) total += sums[i];
    return total;
}
#endif

static pthread_barrier_t barrier;
static size_t buffer_bytes;
static int passes;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *read_passes(void *result) {
    unsigned char *data = mmap(NULL, buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
        fputs("no memory for the buffers: ask for fewer mebibytes\n", stderr);
        exit(1);
    }
#ifdef MADV_HUGEPAGE
    madvise(data, buffer_bytes, MADV_HUGEPAGE); /* a bound should not be lowered by address translation */
#endif
    memset(data, 1, buffer_bytes);
    uint64_t total = sum_buffer(data, buffer_bytes); /* warm-up */
    for (int pass = 0; pass < passes; pass++) {
        pthread_barrier_wait(&barrier); /* the main thread looks at the clock between these two */
        pthread_barrier_wait(&barrier);
        total += sum_buffer(data, buffer_bytes);
        pthread_barrier_wait(&barrier);
    }
    *(uint64_t *)result = total;
    munmap(data, buffer_bytes);
    return NULL;
}

int main(int count, char **arguments) {
    int threads = count == 4 ? atoi(arguments[1]) : 0;
    long mebibytes = count == 4 ? atol(arguments[2]) : 0;
    passes = count == 4 ? atoi(arguments[3]) : 0;
    if (threads < 1 || threads > MOST_THREADS || mebibytes < 1 || passes < 1) {
        fputs("usage: read_bandwidth THREADS MEBIBYTES_PER_THREAD PASSES\n", stderr);
        return 2;
    }
    buffer_bytes = (size_t)mebibytes << 20;
    pthread_t handles[MOST_THREADS];
    static uint64_t totals[MOST_THREADS];
    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&handles[i], NULL, read_passes, &totals[i]) != 0) {
            fputs("a thread could not be started\n", stderr);
            return 1;
        }
    puts(instructions);
    for (int pass = 0; pass < passes; pass++) {
        pthread_barrier_wait(&barrier);
        double started = now();
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
        printf("%.0f\n", (double)buffer_bytes * threads / (now() - started));
    }
    uint64_t total = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        total += totals[i];
    }
    fprintf(stderr, "%llu\n", (unsigned long long)total);
    return 0;
}
