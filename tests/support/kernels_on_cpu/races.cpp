// Checks each memory access of kernels that run on the CPU: GCC's -fsanitize=thread puts a call before it, and these functions
// receive the calls, instead of the sanitizer's library. Each byte of the memory that a kernel was given, and of shared memory,
// remembers who wrote and who read it last: block, thread and epoch, the count of barriers that the thread had passed. Two
// threads that use one byte, one of them writing, without a barrier of their block between, are a race, whatever the order they
// ran in; so are two blocks.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

struct Byte {
    int writer_block, writer, write_epoch;
    int reader_block, reader, other_reader, read_epoch;  // the last block that read it, and two of its threads
    int other_reader_block;
};
static const Byte UNUSED = {-1, -1, -1, -1, -1, -1, -1, -1};

struct Range { char *first, *last; std::vector<Byte> bytes; };
static std::vector<Range> ranges;
static Range shared_memory;
static bool watching = false;
static int block, thread, epoch;
static std::string report;
static long long accesses;

extern "C" {
void races_begin() { ranges.clear(); report.clear(); }
void races_memory(char* first, size_t size) {
    for (const Range& one : ranges) if (first >= one.first && first + size <= one.last) return;
    ranges.push_back({first, first + size, std::vector<Byte>(size, UNUSED)});
}
void races_shared_memory(char* first, char* last) {
    shared_memory = {first, last, std::vector<Byte>(last - first, UNUSED)};
}
void races_watch(bool on) {
    watching = on;
    if (on) for (Range& one : ranges) one.bytes.assign(one.bytes.size(), UNUSED);
}
void races_at(int b, int t, int e) { block = b, thread = t, epoch = e; }
void races_new_block() { shared_memory.bytes.assign(shared_memory.bytes.size(), UNUSED); }
void races_found(const char* what, int a, int b) {
    if (report.size() > 2000) return;
    char text[200];
    snprintf(text, sizeof text, "%s %d, %d; ", what, a, b);
    report += text;
}
const char* races_report() { return report.c_str(); }
long long races_accesses() { return accesses; }
}

static void found(const char* what, bool in_shared, int other_block, int other) {
    if (report.size() > 2000) return;
    char text[200];
    snprintf(text, sizeof text, "%s in %s memory: block %d thread %d epoch %d, and block %d thread %d; ", what,
             in_shared ? "shared" : "global", block, thread, epoch, other_block, other);
    report += text;
}

static void touch(char* at, size_t size, bool write) {
    if (!watching) return;
    Range* range = nullptr;
    if (at >= shared_memory.first && at < shared_memory.last) range = &shared_memory;
    for (size_t i = 0; !range && i < ranges.size(); i++)
        if (at >= ranges[i].first && at < ranges[i].last) range = &ranges[i];
    if (!range) return;
    accesses++;
    if ((uintptr_t)at % size) races_found("misaligned access: bytes, and by how many", (int)size, (int)((uintptr_t)at % size));
    const bool in_shared = range == &shared_memory;
    for (size_t i = at - range->first; i < (size_t)(at - range->first) + size && i < range->bytes.size(); i++) {
        Byte& b = range->bytes[i];
        if (b.writer_block >= 0 && (b.writer_block != block || (b.writer != thread && b.write_epoch == epoch)))
            found(write ? "two writes" : "a read after a write", in_shared, b.writer_block, b.writer);
        if (write) {
            const bool here = b.reader_block == block && b.read_epoch == epoch;
            if (b.reader_block >= 0 && b.reader_block != block) found("a write after a read", in_shared, b.reader_block, b.reader);
            else if (b.other_reader_block >= 0 && b.other_reader_block != block)
                found("a write after a read", in_shared, b.other_reader_block, -1);
            else if (here && b.reader != thread) found("a write after a read", in_shared, block, b.reader);
            else if (here && b.other_reader >= 0 && b.other_reader != thread)
                found("a write after a read", in_shared, block, b.other_reader);
            b.writer_block = block, b.writer = thread, b.write_epoch = epoch;
        } else if (b.reader_block != block) {
            b.other_reader_block = b.reader_block;
            b.reader_block = block, b.reader = thread, b.other_reader = -1, b.read_epoch = epoch;
        } else if (b.read_epoch != epoch) {
            b.reader = thread, b.other_reader = -1, b.read_epoch = epoch;
        } else if (b.reader != thread) {
            b.other_reader = thread;
        }
    }
}

#define ACCESSES(SIZE) \
    extern "C" void __tsan_read##SIZE(void* p) { touch((char*)p, SIZE, false); } \
    extern "C" void __tsan_write##SIZE(void* p) { touch((char*)p, SIZE, true); } \
    extern "C" void __tsan_unaligned_read##SIZE(void* p) { touch((char*)p, SIZE, false); } \
    extern "C" void __tsan_unaligned_write##SIZE(void* p) { touch((char*)p, SIZE, true); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t n) { for (size_t i = 0; i < n; i++) touch((char*)p + i, 1, false); }
void __tsan_write_range(void* p, size_t n) { for (size_t i = 0; i < n; i++) touch((char*)p + i, 1, true); }
}
