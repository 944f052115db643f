/*
 * What Swift cannot say to Linux by itself: atomics on memory shared with the kernel, variadic system calls, macros with
 * arguments, and the headers of the libraries below. Everything here is a thin wrapper; decisions live in Swift.
 */
#pragma once

#include "culvert_headers.h"
#include "culvert_atomics.h"
#include "culvert_system.h"
#include "culvert_bpf.h"
#include "../../../bpf/culvert_xdp.h"
