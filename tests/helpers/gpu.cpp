// A stand-in for a GPU: tensors of the device "cuda" in memory that the host cannot touch.
//
// All of it is mapped twice, for the device without any access, so that host code which is given a tensor's
// address ends in a segmentation fault, and for the kernels, which are torch's own for the CPU.  As on a GPU an
// operation on tensors of both sides is refused, but for those without dimensions and for indices.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace {

using at::IntArrayRef;
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using Pairs = std::vector<std::pair<Tensor, Tensor>>;  // of the device, and what the host sees of each

const Device CPU(DeviceType::CPU), GPU(DeviceType::CUDA, 0);
const c10::DispatchKeySet KEYS(c10::DispatchKey::CUDA);

// Memory

constexpr size_t ARENA = size_t(8) << 30;
char *of_device = nullptr, *of_host = nullptr;
std::mutex alone;
std::map<size_t, std::vector<size_t>> unused;   // places, by size
std::unordered_map<size_t, size_t> sizes;       // by place
size_t top = 0;

void map_arena() {
  int file = memfd_create("gpu", 0);
  TORCH_CHECK(file >= 0 && ftruncate(file, ARENA) == 0);
  int flags = MAP_SHARED | MAP_NORESERVE;
  of_device = static_cast<char*>(mmap(nullptr, ARENA, PROT_NONE, flags, file, 0));
  of_host = static_cast<char*>(mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, flags, file, 0));
  TORCH_CHECK(of_device != MAP_FAILED && of_host != MAP_FAILED);
}

bool on_device(const void* place) {
  auto p = static_cast<const char*>(place);
  return of_device && p >= of_device && p < of_device + ARENA;
}

bool of_the_device(const void* place) {  // as the host sees it
  auto p = static_cast<const char*>(place);
  return of_host && p >= of_host && p < of_host + ARENA;
}

char* seen_by_host(const void* place) {
  auto p = static_cast<char*>(const_cast<void*>(place));
  return on_device(p) ? of_host + (p - of_device) : p;
}

void release(void* context) {
  std::lock_guard<std::mutex> guard(alone);
  size_t place = reinterpret_cast<size_t>(context) - 1;
  unused[sizes[place]].push_back(place);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, GPU};
    std::lock_guard<std::mutex> guard(alone);
    if (!of_device) map_arena();
    size_t size = 512, place;
    while (size < bytes) size *= 2;
    auto& free = unused[size];
    if (free.empty()) {
      place = top;
      top += size;
      TORCH_CHECK(top <= ARENA, "CUDA out of memory");
      sizes[place] = size;
    } else {
      place = free.back();
      free.pop_back();
    }
    return {of_device + place, reinterpret_cast<void*>(place + 1), &release, GPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(seen_by_host(to), seen_by_host(from), bytes);
  }
};
Memory memory;
[[maybe_unused]] const bool allocates = (c10::SetAllocator(DeviceType::CUDA, &memory, 100), true);

// One device with one stream, and what torch asks of it

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return GPU; }
  Device getDevice() const override { return GPU; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override { return c10::Stream(c10::Stream::DEFAULT, GPU); }
  c10::Stream getDefaultStream(Device) const override { return getStream(GPU); }
  c10::Stream getStreamFromGlobalPool(Device, bool) const override { return getStream(GPU); }
  c10::Stream exchangeStream(c10::Stream) const override { return getStream(GPU); }
  void record(void**, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

std::set<void*> generators;  // those of the device

struct CUDAHooks final : at::CUDAHooksInterface {  // by this name torch looks for it
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  at::Generator getNewGenerator(DeviceIndex) const override {
    auto made = at::make_generator<at::CPUGeneratorImpl>(0);
    generators.insert(made.unsafeGetGeneratorImpl());
    return made;
  }
  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static const at::Generator generator = getNewGenerator(0);
    return generator;
  }
  Device getDeviceFromPtr(void*) const override { return GPU; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  bool compiledWithCuDNN() const override { return true; }
  bool hasCuDNN() const override { return true; }
  long versionCuDNN() const override { return 91000; }
  long versionRuntimeCuDNN() const override { return 91000; }
  double batchnormMinEpsilonCuDNN() const override { return 1e-5; }
};

// The kernel of attention that a GPU has in single precision, where the caller allows it

int64_t kernel_of_attention(const Tensor& q, const Tensor&, const Tensor&, const std::optional<Tensor>&, double,
                            bool, std::optional<double>, bool) {
  bool allowed = at::globalContext().userEnabledMemEfficientSDP();
  return static_cast<int64_t>(allowed && q.scalar_type() != at::kDouble ? at::SDPBackend::efficient_attention
                                                                         : at::SDPBackend::math);
}

// Tensors

Tensor with_storage(c10::Storage storage, c10::DispatchKeySet keys, const Tensor& like) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), keys, like.dtype());
  made.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  if (like.is_conj()) made._set_conj(true);
  if (like.is_neg()) made._set_neg(true);
  return made;
}

bool is_there(const Tensor& t) { return t.defined() && t.device().type() == DeviceType::CUDA; }

Tensor host(const Tensor& t) {  // the same memory as a tensor of the CPU's
  if (!is_there(t)) return t;
  auto place = t.storage().data();
  auto kept = new c10::Storage(t.storage());
  c10::DataPtr pointer(place ? seen_by_host(place) : nullptr, kept,
                       [](void* storage) { delete static_cast<c10::Storage*>(storage); }, CPU);
  c10::Storage storage(c10::Storage::use_byte_size_t(), t.storage().nbytes(), std::move(pointer), nullptr, false);
  auto seen = with_storage(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), t);
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) seen.unsafeGetTensorImpl()->set_wrapped_number(true);
  return seen;
}

void grow(const Tensor& t, IntArrayRef size) {
  t.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  size_t bytes = at::detail::computeStorageNbytesContiguous(size, t.dtype().itemsize(), t.storage_offset());
  auto storage = t.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes()) return;
  auto place = memory.allocate(bytes);
  if (storage->nbytes()) memory.copy_data(place.get(), storage->data(), storage->nbytes());
  storage->set_data_ptr_noswap(std::move(place));
  storage->set_nbytes(bytes);
}

Tensor device(const Tensor& made, const Pairs& pairs) {  // what an operation of the CPU's gives, for the device
  if (!made.defined() || made.device() != CPU) return made;
  for (auto& [there, here] : pairs)
    if (here.unsafeGetTensorImpl() == made.unsafeGetTensorImpl()) {
      if (there.sizes() != here.sizes()) grow(there, here.sizes());
      return there;
    }
  auto place = made.storage().nbytes() ? made.storage().data() : nullptr;
  if (place && of_the_device(place))
    for (auto& [there, here] : pairs)
      if (here.storage().data() == place) return with_storage(c10::Storage(there.storage()), KEYS, made);
  Tensor out = at::detail::empty_strided_generic(made.sizes(), made.strides(), &memory, KEYS, made.scalar_type());
  host(out).copy_(made);
  if (made.is_conj()) out._set_conj(true);
  return out;
}

// Operations: by the CPU's kernels

void by_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& name = schema.name();
  const size_t first = stack->size() - schema.arguments().size();
  const bool takes_indices = name.find("index") != std::string::npos;
  Pairs pairs;
  Tensor stranger;
  bool any = false;
  auto one = [&](const Tensor& t, bool out) -> Tensor {
    if (!is_there(t)) {
      if (t.defined() && t.dim() > 0) stranger = t;
      return t;
    }
    any = true;
    for (auto& [there, here] : pairs)
      if (there.unsafeGetTensorImpl() == t.unsafeGetTensorImpl()) return here;
    // What is to be made large enough first cannot be by the CPU.
    pairs.emplace_back(t, out && t.numel() == 0 ? at::empty({0}, t.options().device(CPU)) : host(t));
    return pairs.back().second;
  };
  for (size_t i = 0; i < schema.arguments().size(); i++) {
    auto& value = (*stack)[first + i];
    const auto& argument = schema.arguments()[i];
    const bool out = argument.kwarg_only() && argument.alias_info() && argument.alias_info()->isWrite();
    if (value.isTensor()) {
      value = one(value.toTensor(), out);
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(one(t, out));
      value = list;
    } else if (value.isList() && value.toListRef().size() &&
               (value.toListRef()[0].isTensor() || value.toListRef()[0].isNone())) {
      c10::List<std::optional<Tensor>> list;
      for (const auto& x : value.toListRef()) {
        bool absent = x.isNone() || !x.toTensor().defined();
        list.push_back(absent ? std::nullopt : std::optional<Tensor>(one(x.toTensor(), out)));
      }
      value = list;
    } else if (value.isDevice()) {
      any = any || value.toDevice().type() == DeviceType::CUDA;
      value = CPU;
    } else if (value.isGenerator()) {
      TORCH_CHECK(generators.count(value.toGenerator().unsafeGetGeneratorImpl()),
                  "Expected a 'cuda' device type for generator but found 'cpu' (", name, ")");
    }
  }
  TORCH_CHECK(!any || takes_indices || !stranger.defined(),
              "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
              name, ")");
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (auto& [there, here] : pairs)
    if (here.numel() && here.storage().data() && !of_the_device(here.storage().data())) {
      grow(there, here.sizes());
      there.unsafeGetTensorImpl()->set_sizes_and_strides(here.sizes(), here.strides());
      host(there).copy_(here);
    }
  const size_t made = stack->size() - schema.returns().size();
  for (size_t i = made; i < stack->size(); i++) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = device(value.toTensor(), pairs);
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& t : value.toTensorVector()) list.push_back(device(t, pairs));
      value = list;
    }
  }
}

// Those on memory, and on how it is looked at

Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           KEYS, c10::dtype_or_default(dtype));
}

const Tensor& resize(const Tensor& t, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  grow(t, C10_AS_INTARRAYREF_SLOW(size));
  bool other = format && *format != at::MemoryFormat::Contiguous && *format != at::MemoryFormat::Preserve;
  if (other) t.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return t;
}

Tensor& copy(Tensor& t, const Tensor& source, bool) {
  host(t).copy_(host(source));
  return t;
}

Tensor& set_part(Tensor& t, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
                 c10::SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(t, source, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size),
                                      C10_AS_INTARRAYREF_SLOW(stride));
}

Tensor& set_whole(Tensor& t, at::Storage source) {
  auto count = static_cast<int64_t>(source.nbytes() / t.dtype().itemsize());
  return at::native::set_storage_cpu_(t, source, 0, {count}, {});
}

Tensor& set_tensor(Tensor& t, const Tensor& source) {
  return at::native::set_storage_cpu_(t, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

}  // namespace

namespace at {
using ::CUDAHooks;
REGISTER_CUDA_HOOKS(CUDAHooks);
namespace native {
[[maybe_unused]] static const bool attends =
    (_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&kernel_of_attention), true);
}
}  // namespace at

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  namespace native = at::native;
  using Strides = std::optional<int64_t>;
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", static_cast<Tensor (*)(const Tensor&, IntArrayRef, IntArrayRef, Strides)>(
                           &native::as_strided_tensorimpl));
  m.impl("view", static_cast<Tensor (*)(const Tensor&, IntArrayRef)>(&native::view));
  m.impl("_reshape_alias",
         static_cast<Tensor (*)(const Tensor&, IntArrayRef, IntArrayRef)>(&native::_reshape_alias));
  m.impl("resize_", &resize);
  m.impl("copy_", &copy);
  m.impl("set_.source_Storage_storage_offset", &set_part);
  m.impl("set_.source_Storage", &set_whole);
  m.impl("set_.source_Tensor", &set_tensor);
  // Of these torch chooses a library by the device, itself.
  for (auto name : {"convolution", "convolution_backward"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_cpu>());
}
