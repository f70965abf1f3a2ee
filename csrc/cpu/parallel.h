// Runs body(item) for items 0 .. n-1 on up to `threads` threads, items handed out one by one.
//
// Where the process has an OpenMP runtime (PyTorch brings one), its threads do the work. They exist already,
// and they spin for a while after a forward: threads of our own would compete with them for the cores (exact
// mode on SmolLM2 in bf16, which perturbs between layers, took 459 ms a step with threads of our own).
// Without OpenMP, threads are made for the call, 8 us each (2-core Xeon VM, Nov 2026).
#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace zk {

// GOMP_parallel(function, data, threads, flags) of libgomp, libiomp5 and libomp; null: none known
using OpenMpParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern std::atomic<OpenMpParallel> openmp_parallel;

template <class Body>
void parallel_for(int64_t n, int threads, const Body& body) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(item);
  };
  if (threads > n) threads = static_cast<int>(n);
  if (threads <= 1) return work();
  if (const OpenMpParallel run = openmp_parallel.load(std::memory_order_relaxed)) {
    auto call = [](void* function) { (*static_cast<decltype(work)*>(function))(); };
    return run(call, &work, static_cast<unsigned>(threads), 0);
  }
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) {
    try {
      helpers.emplace_back(work);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that run do the work
    }
  }
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace zk
