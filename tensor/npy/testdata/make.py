"""Writes the files beside it, with NumPy 1.24."""
import os

import numpy as np

os.chdir(os.path.dirname(os.path.abspath(__file__)))
a = np.arange(6).reshape(2, 3)
for code in ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16"]:
    np.save(code, a.astype("<" + code))
np.save("big_f4", a.astype(">f4"))
np.save("big_c8", a.astype(">c8"))
np.save("fortran_f4", np.asfortranarray(np.arange(24, dtype="<f4").reshape(2, 3, 4)))
np.save("fortran_U", np.asfortranarray(np.array([["a", "bc"], ["", "déjà"], ["x", "\U0001F600"]])))
np.save("bytes", np.array([b"ab", b"c"]))
np.save("big_U", np.array(["héllo", "w"], dtype=">U5"))
np.save("bool", np.array([True, False, True]))
np.save("scalar", np.array(2.5))
np.save("empty", np.zeros((3, 0, 2), "<f4"))
with open("version2.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(3, dtype="<i8"), version=(2, 0))
with open("version3.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(3, dtype="<i8"), version=(3, 0))
np.savez("plain.npz", z=np.arange(3.0), a=np.array([1, 2], "<i4"))
np.savez_compressed("packed.npz", z=np.zeros(1000, "<f4"), a=np.array([1, 2], "<i4"))
