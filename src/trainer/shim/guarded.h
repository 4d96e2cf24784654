// How every function of the shim leaves: null, or a message that the caller frees with shim_free. No exception escapes.

#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace orchestrator {

template <typename Body>
char* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

}  // namespace orchestrator
