// Set-up that Python does once, and advice to the kernel about fresh memory.
#include <cstddef>
#include <cstdint>

#include "plan.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif



namespace longrnn {
OpenMpParallel openmp_parallel = nullptr;
}

// Hands over GOMP_parallel of the OpenMP that torch runs; null: threads of our own.
EXPORT void longrnn_use_openmp(void* gomp_parallel) {
  longrnn::openmp_parallel = reinterpret_cast<longrnn::OpenMpParallel>(gomp_parallel);
}

// Asks for huge pages under a fresh buffer: one page fault in the place of 512.
EXPORT void longrnn_advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}
