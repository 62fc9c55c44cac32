// What one step of a call that streams messages out has made (ReadingCall).
#ifndef QS_SERVICE_TENSORS_READ_STEP_H_
#define QS_SERVICE_TENSORS_READ_STEP_H_

namespace qs {

enum class ReadStep {
  kMessage,
  kLast,     // a message, after which the call ends with OK
  kNothing,  // but there is more at once: a long step in parts
  kWait,     // nothing until something happens
};

}  // namespace qs

#endif  // QS_SERVICE_TENSORS_READ_STEP_H_
