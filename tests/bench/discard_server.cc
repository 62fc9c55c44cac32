// The RPC that service_bench compares with: reads every message, keeps none.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <string>

#include "service/server/channel_arguments.h"
#include "service/server/server.h"
#include "tests/bench/stream_load.h"

namespace qs {
namespace {

class Discard final : public grpc::ServerGenericBidiReactor {
 public:
  Discard() { StartRead(&in_); }

  void OnReadDone(bool ok) override {
    in_.Clear();
    if (!ok) return Finish(grpc::Status::OK);
    StartRead(&in_);
  }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer in_;
};

class DiscardService final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext*) override {
    return new Discard;
  }
};

}  // namespace

int ServeDiscard(const std::string& port_file) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  Server::PrepareProcess(false);
  DiscardService service;
  grpc::ServerBuilder builder;
  SetChannelArguments(DefaultOptions(), &builder);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  builder.RegisterCallbackGenericService(&service);
  const auto server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::ofstream(port_file + ".new") << port << "\n";
  std::rename((port_file + ".new").c_str(), port_file.c_str());
  int signal = 0;
  sigwait(&signals, &signal);
  server->Shutdown();
  return 0;
}

}  // namespace qs
