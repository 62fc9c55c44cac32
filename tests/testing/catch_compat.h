// Catch2 2.13 (Debian 12) and 3.x (Ubuntu 24.04) under one include.
#ifndef QS_TESTS_TESTING_CATCH_COMPAT_H_
#define QS_TESTS_TESTING_CATCH_COMPAT_H_

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif

#endif  // QS_TESTS_TESTING_CATCH_COMPAT_H_
