# What a GPU worker is made of beside its kernels: plain C++, in every build.
target_sources(qs_kernels PRIVATE
  device_bytes.cc
  cuda/device_session.cc
  cuda/staged_affine.cc
  cuda/staged_awq.cc
  cuda/staged_call.cc
  cuda/staged_gptq.cc
  cuda/staged_gram.cc
  cuda/staged_hqq.cc
  cuda/staged_nf4.cc
  cuda/staged_stats.cc
  cuda/workspace.cc)
