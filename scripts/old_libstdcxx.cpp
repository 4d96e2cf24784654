// What g++'s headers refer to and the libstdc++ of RHEL 8 (GCC 8) does not have: linked into the trainers that are packed
// (scripts/old_glibc.sh). Everything is hidden, so that libtorch and libstdc++ keep using their own.

#include <new>
#include <sstream>

#define HIDDEN __attribute__((visibility("hidden")))

extern "C" {
// Of glibc 2.32. "Perhaps not": counters of shared pointers are then always changed atomically.
HIDDEN char __libc_single_threaded = 0;

// Of GCC 11, where copying an exception pointer became inline. The functions that did it before are in every libstdc++.
void copy_exception_pointer(void* to, const void* from) noexcept asm("_ZNSt15__exception_ptr13exception_ptrC1ERKS0_");
void drop_exception_pointer(void* pointer) noexcept asm("_ZNSt15__exception_ptr13exception_ptrD1Ev");

HIDDEN void add_reference(const void* pointer) noexcept asm("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
void add_reference(const void* pointer) noexcept {
  // The copy is never dropped.
  void* copy;
  copy_exception_pointer(&copy, pointer);
}

HIDDEN void release_reference(void* pointer) noexcept asm("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
void release_reference(void* pointer) noexcept { drop_exception_pointer(pointer); }

// Of GCC 11.
HIDDEN void throw_bad_array_new_length() asm("_ZSt28__throw_bad_array_new_lengthv");
void throw_bad_array_new_length() { throw std::bad_array_new_length(); }
}

// Of GCC 9.
template std::basic_ostringstream<char>::basic_ostringstream();
