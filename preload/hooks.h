// One hook for each row of entry_points.def: hook_<export name>, called by the
// exported wrapper while the shim is active, with the arguments as they came. A
// hook calls the real function through real() (real_driver.h) and returns its
// result. Hooks are noexcept; a missing one is a link error.
//
// Two hooks are called in inactive processes as well: hook_cuInit and the
// resolvers hook_cuGetProcAddress{,_v2}.
#pragma once

#include "preload/real_driver.h"

namespace kvshim::preload {

namespace hooks_detail {
template <class F>
struct AddNoexcept;
template <class R, class... Args>
struct AddNoexcept<R(Args...)> {
  using Type = R(Args...) noexcept;
};
}  // namespace hooks_detail

#define KVSHIM_ENTRY_POINT(name, role, area, note) \
  hooks_detail::AddNoexcept<decltype(::name)>::Type hook_##name;
#include "preload/entry_points.def"
#undef KVSHIM_ENTRY_POINT

}  // namespace kvshim::preload
