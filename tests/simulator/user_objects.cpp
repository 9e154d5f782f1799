#include "tests/simulator/user_objects.h"

#include <mutex>
#include <unordered_map>

#include "tests/simulator/graphs.h"

namespace kvshim::simulator {
namespace {

struct UserObject {
  void* data = nullptr;
  CUhostFn destroy = nullptr;
  unsigned references = 0;
};

struct UserObjects {
  std::mutex mutex;
  std::unordered_map<CUuserObject, UserObject> all;
  std::uintptr_t next = 0x1000;
};

UserObjects& objects() {
  static UserObjects* const instance = new UserObjects;
  return *instance;
}

}  // namespace

CUresult release_user_object(CUuserObject object, unsigned count) {
  UserObject last;
  {
    UserObjects& all = objects();
    const std::lock_guard lock(all.mutex);
    const auto found = all.all.find(object);
    if (found == all.all.end() || found->second.references < count || count == 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    found->second.references -= count;
    if (found->second.references != 0) return CUDA_SUCCESS;
    last = found->second;
    all.all.erase(found);
  }
  last.destroy(last.data);
  return CUDA_SUCCESS;
}

CUresult api::cuUserObjectCreate(CUuserObject* object, void* data, CUhostFn destroy,
                                 unsigned references, unsigned flags) {
  if (object == nullptr || destroy == nullptr || references == 0 ||
      flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  UserObjects& all = objects();
  const std::lock_guard lock(all.mutex);
  *object = reinterpret_cast<CUuserObject>(all.next);  // NOLINT(performance-no-int-to-ptr)
  all.next += 16;
  all.all[*object] = UserObject{data, destroy, references};
  return CUDA_SUCCESS;
}

CUresult api::cuUserObjectRetain(CUuserObject object, unsigned count) {
  UserObjects& all = objects();
  const std::lock_guard lock(all.mutex);
  const auto found = all.all.find(object);
  if (found == all.all.end() || count == 0) return CUDA_ERROR_INVALID_VALUE;
  found->second.references += count;
  return CUDA_SUCCESS;
}

CUresult api::cuUserObjectRelease(CUuserObject object, unsigned count) {
  return release_user_object(object, count);
}

CUresult api::cuGraphRetainUserObject(CUgraph handle, CUuserObject object, unsigned count,
                                      unsigned flags) {
  const StreamLock lock(stream_mutex());
  const auto graph = find_graph(lock, handle);
  if (graph == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  if ((flags & CU_GRAPH_USER_OBJECT_MOVE) == 0) {
    if (const CUresult bad = api::cuUserObjectRetain(object, count); bad != CUDA_SUCCESS)
      return bad;
  }
  graph->user_objects[object] += count;
  return CUDA_SUCCESS;
}

CUresult api::cuGraphReleaseUserObject(CUgraph handle, CUuserObject object, unsigned count) {
  {
    const StreamLock lock(stream_mutex());
    const auto graph = find_graph(lock, handle);
    if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto held = graph->user_objects.find(object);
    if (held == graph->user_objects.end() || held->second < count) return CUDA_ERROR_INVALID_VALUE;
    held->second -= count;
    if (held->second == 0) graph->user_objects.erase(held);
  }
  return release_user_object(object, count);
}

}  // namespace kvshim::simulator
