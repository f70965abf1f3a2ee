// The loop bodies of all ops, of which portable.cpp, avx2.cpp and avx512.cpp each compile one set.
#pragma once

#include "adam_body.h"
#include "adamu_body.h"
#include "masked_body.h"
#include "mixed_body.h"
#include "perturb_body.h"
#include "tables.h"
#include "tt_body.h"

namespace zk {
namespace {

// constexpr, so that no code built for V runs when the library is loaded
template <class V>
constexpr Tables make_tables() {
  PerturbTable perturb = make_perturb_table<V>();
  perturb.mixed = run_mixed<V>;
  return {perturb, make_masked_table(), make_adam_table<V>(), make_adamu_table<V>(), make_tt_table<V>()};
}

}  // namespace
}  // namespace zk
