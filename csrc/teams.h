// Many sequences at once, each at its own step. A thread's team holds a few of them; one product
// serves them all, and a sequence that ends makes room for the next, whatever their lengths and
// however many steps each skips.
#pragma once

#include <atomic>
#include <cstdint>

#include "parallel.h"
#include "plan.h"
#include "product.h"

namespace longrnn {

// Members of a team: enough rows for the registers, and more of them where the weights, which
// every step reads, do not stay in the second cache.
inline int64_t members_of(int64_t weight_bytes) {
  return weight_bytes < (768 << 10) ? kRowBlock : 4 * kRowBlock;
}

// A second thread costs more than a few multiply-adds.
inline int threads_for(int64_t multiply_adds, int granted) {
  return multiply_adds < (1 << 20) || granted < 1 ? 1 : granted;
}

// A Team(call, members) has
//   bool enter(member, sequence)  begins a sequence; false if that is all there was to do
//   bool seek(member)             goes on to its next step; false at its end
//   void step(count)              does that step for the first `count` members
//   void move(from, to)           makes member `to` what `from` was
template <class Team, class Call>
void run_in_teams(const Call& call, int64_t sequences, int threads, int64_t most) {
  if (threads > sequences) threads = sequences > 0 ? int(sequences) : 1;
  const int64_t share = ceil_div(sequences, threads), members = share < most ? share : most;
  std::atomic<int64_t> next{0};
  auto body = [&] {
    Team team(call, members);
    int64_t active = 0;
    auto enter = [&](int64_t member) {
      for (int64_t s; (s = next.fetch_add(1, std::memory_order_relaxed)) < sequences;)
        if (team.enter(member, s)) return true;
      return false;
    };
    while (active < members && enter(active)) active++;
    while (active > 0) {
      team.step(active);
      for (int64_t member = active; member-- > 0;) {
        if (team.seek(member) || enter(member)) continue;
        if (member != --active) team.move(active, member);
      }
    }
  };
  on_threads(threads, body);
}

}  // namespace longrnn
